//! Weights that PyTorch has pickled (`pytorch_model.bin`, the zip format of
//! PyTorch 1.6 and later). The pickle is taken apart and never run: only tensors
//! are accepted, whatever else it holds is an error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, Stack};
use zip::ZipArchive;

use crate::files::FileError;
use crate::files::elements::Elements;

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// None of numbers that are no weights, as position ids are.
    elements: Option<Elements>,
    /// The storage's name within the archive.
    storage: String,
    /// Elements of the storage before the tensor's first.
    offset: usize,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

/// The tensors of a pickled file.
#[derive(Debug)]
pub struct Pickled {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

type Archive = ZipArchive<BufReader<File>>;

impl Pickled {
    /// Reads the list of tensors.
    ///
    /// # Errors
    /// A file of another format; anything in it that is no tensor.
    pub fn open(path: &Path) -> Result<Pickled, FileError> {
        let error = |sentence: String| FileError::new(path, sentence);
        let mut archive = archive(path)?;
        let names: Vec<String> =
            archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
        let pickle = names.iter().find(|name| name.ends_with("/data.pkl"));
        let pickle = pickle.ok_or_else(|| error("the archive holds no data.pkl, so no weights".into()))?;
        let folder = pickle.trim_end_matches("data.pkl");
        let mut order = String::new();
        if let Ok(mut entry) = archive.by_name(&format!("{folder}byteorder")) {
            entry.read_to_string(&mut order).map_err(|cause| error(cause.to_string()))?;
        }
        if order.trim() == "big" {
            return Err(error("the weights are big-endian, which is not read".into()));
        }
        let mut stack = Stack::empty();
        let read = archive.by_name(pickle).map_err(|cause| error(cause.to_string()))?;
        let object = stack.read_loop(&mut BufReader::new(read)).and_then(|()| stack.finalize());
        let object = object.map_err(|cause| error(format!("the pickle cannot be read: {cause}")))?;
        let entries = entries(object, folder).map_err(error)?;
        Ok(Pickled { path: path.into(), entries })
    }

    /// Names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Shape and elements of a tensor.
    ///
    /// # Errors
    /// A tensor that is not there, that holds no weights, or is cut short.
    pub fn load(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), FileError> {
        let error = |sentence: String| FileError::new(&self.path, format!("the tensor {name} {sentence}"));
        let entry = self.entries.get(name).ok_or_else(|| error("is not in the file".into()))?;
        let elements = entry.elements.ok_or_else(|| error("holds no floating-point numbers".into()))?;
        let width = elements.width();
        let short = || error("reaches beyond its storage; fetch the file again".into());
        let count = entry.shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        // One more than the last element's place.
        let reach = match entry.shape.contains(&0) {
            true => Some(0),
            false => entry.shape.iter().zip(&entry.stride).try_fold(1usize, |reach, (size, stride)| {
                reach.checked_add((size - 1).checked_mul(*stride)?)
            }),
        };
        let (count, reach) = (count.ok_or_else(short)?, reach.ok_or_else(short)?);
        let mut archive = archive(&self.path)?;
        let mut storage = archive.by_name(&entry.storage).map_err(|_| short())?;
        let available = storage.size() as usize / width;
        if entry.offset.checked_add(reach).is_none_or(|end| end > available) || count > available {
            return Err(short());
        }
        let skipped = (entry.offset * width) as u64;
        let mut bytes = Vec::new();
        let read = std::io::copy(&mut storage.by_ref().take(skipped), &mut std::io::sink())
            .and_then(|_| storage.take((reach * width) as u64).read_to_end(&mut bytes));
        read.map_err(|cause| error(format!("cannot be read: {cause}")))?;
        if bytes.len() != reach * width {
            return Err(short());
        }
        let mut decoded = vec![0.0; reach];
        elements.decode(&bytes, &mut decoded);
        Ok((entry.shape.clone(), in_order(&decoded, entry, count)))
    }
}

fn archive(path: &Path) -> Result<Archive, FileError> {
    let file = File::open(path).map_err(|cause| FileError::new(path, cause))?;
    ZipArchive::new(BufReader::new(file)).map_err(|cause| {
        FileError::new(
            path,
            format!(
                "this is no file of PyTorch 1.6 or later ({cause}); `save_pretrained` of transformers writes safetensors"
            ),
        )
    })
}

/// Elements row by row, whatever the strides.
fn in_order(elements: &[f32], entry: &Entry, count: usize) -> Vec<f32> {
    let mut dense = 1;
    let contiguous = entry.shape.iter().zip(&entry.stride).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == dense;
        dense *= size;
        fits
    });
    if contiguous {
        return elements.to_vec();
    }
    (0..count)
        .map(|mut place| {
            let mut at = 0;
            for (&size, &stride) in entry.shape.iter().zip(&entry.stride).rev() {
                at += place % size * stride;
                place /= size;
            }
            elements[at]
        })
        .collect()
}

/// The tensors of a state dict.
fn entries(object: Object, folder: &str) -> Result<BTreeMap<String, Entry>, String> {
    let Object::Dict(items) = object else {
        return Err(format!("the file holds {}, and a state dict is wanted", described(&object)));
    };
    let mut entries = BTreeMap::new();
    for (key, value) in items {
        let Object::Unicode(name) = key else {
            return Err(format!("a key of the state dict is {}, and a name is wanted", described(&key)));
        };
        // Versions of modules, which PyTorch writes beside the tensors.
        if name == "_metadata" && matches!(value, Object::Dict(_)) {
            continue;
        }
        let refused = format!(
            "the entry {name} is {}; only tensors are read, and nothing of the file was run",
            described(&value)
        );
        let entry = tensor(&value, folder).ok_or(refused)?;
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// A value in words, for a refusal.
fn described(object: &Object) -> String {
    match object {
        Object::Class { module_name, class_name } => format!("{module_name}.{class_name}"),
        Object::Reduce { callable, .. } | Object::Build { callable, .. } => {
            format!("a call of {}", described(callable))
        }
        Object::Dict(_) => "a table".into(),
        Object::List(_) | Object::Tuple(_) => "a list".into(),
        Object::Unicode(_) => "a text".into(),
        Object::Int(_) | Object::Long(_) | Object::Float(_) | Object::Bool(_) => "a number".into(),
        Object::None => "nothing".into(),
        Object::Mark | Object::PersistentLoad(_) => "no value".into(),
    }
}

/// Whether a value is this function or class.
fn is(object: &Object, module: &str, name: &str) -> bool {
    matches!(object, Object::Class { module_name, class_name } if module_name == module && class_name == name)
}

fn tensor(object: &Object, folder: &str) -> Option<Entry> {
    let Object::Reduce { callable, args } = object else { return None };
    let Object::Tuple(arguments) = &**args else { return None };
    if is(callable, "torch._utils", "_rebuild_parameter") {
        return tensor(arguments.first()?, folder);
    }
    if !is(callable, "torch._utils", "_rebuild_tensor_v2") {
        return None;
    }
    let [storage, offset, shape, stride, ..] = &arguments[..] else { return None };
    let Object::PersistentLoad(storage) = storage else { return None };
    let Object::Tuple(storage) = &**storage else { return None };
    let [_, Object::Class { module_name, class_name }, Object::Unicode(key), ..] = &storage[..] else {
        return None;
    };
    if module_name != "torch" {
        return None;
    }
    let elements = match class_name.as_str() {
        "FloatStorage" => Some(Elements::F32),
        "DoubleStorage" => Some(Elements::F64),
        "HalfStorage" => Some(Elements::F16),
        "BFloat16Storage" => Some(Elements::Bf16),
        "LongStorage" | "IntStorage" | "ByteStorage" | "BoolStorage" => None,
        _ => return None,
    };
    let (shape, stride) = (sizes(shape)?, sizes(stride)?);
    let same = shape.len() == stride.len();
    let storage = format!("{folder}data/{key}");
    same.then_some(Entry { elements, storage, offset: size(offset)?, shape, stride })
}

fn size(object: &Object) -> Option<usize> {
    match *object {
        Object::Int(number) => usize::try_from(number).ok(),
        Object::Long(number) => usize::try_from(number).ok(),
        _ => None,
    }
}

fn sizes(object: &Object) -> Option<Vec<usize>> {
    match object {
        Object::Tuple(items) => items.iter().map(size).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn written(pickle: &[u8], storage: &[f32]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut archive = ZipWriter::new(file.reopen().unwrap());
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        archive.start_file("archive/data.pkl", options).unwrap();
        archive.write_all(pickle).unwrap();
        archive.start_file("archive/data/0", options).unwrap();
        archive
            .write_all(&storage.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
            .unwrap();
        archive.finish().unwrap();
        file
    }

    fn text(value: &str) -> Vec<u8> {
        [&b"X"[..], &(value.len() as u32).to_le_bytes(), value.as_bytes()].concat()
    }

    /// A pickle of `{"a": tensor}`, of a shape and strides, in FloatStorage 0.
    fn pickled([rows, columns]: [u8; 2], [down, right]: [u8; 2], offset: u8) -> Vec<u8> {
        [
            &b"\x80\x02}"[..],
            &text("a"),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            &text("storage"),
            b"ctorch\nFloatStorage\n",
            &text("0"),
            &text("cpu"),
            &[b'K', 6, b't', b'Q', b'K', offset],
            &[b'K', rows, b'K', columns, 0x86, b'K', down, b'K', right, 0x86],
            b"\x89)tRs.",
        ]
        .concat()
    }

    #[test]
    fn tensors_are_read_in_any_order_of_memory() {
        let storage = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let load = |shape, stride, offset| {
            let file = written(&pickled(shape, stride, offset), &storage);
            let pickled = Pickled::open(file.path()).unwrap();
            assert_eq!(pickled.names().collect::<Vec<_>>(), ["a"]);
            pickled.load("a").map_err(|error| error.to_string())
        };
        assert_eq!(load([2, 3], [3, 1], 0), Ok((vec![2, 3], storage.to_vec())));
        assert_eq!(load([3, 2], [1, 3], 0), Ok((vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0])));
        assert_eq!(load([1, 2], [2, 1], 4), Ok((vec![1, 2], vec![4.0, 5.0])));
        for (shape, stride, offset) in [([2, 3], [3, 1], 1), ([200, 200], [0, 0], 0), ([2, 3], [255, 1], 0)] {
            let error = load(shape, stride, offset).unwrap_err();
            assert!(error.contains("the tensor a reaches beyond its storage"), "{error}");
        }
    }

    #[test]
    fn what_is_no_tensor_is_refused_and_not_run() {
        let refused = |pickle: &[u8]| Pickled::open(written(pickle, &[]).path()).unwrap_err().to_string();
        let call = [&b"\x80\x02}"[..], &text("a"), b"cposix\nsystem\n", &text("true"), b"\x85Rs."].concat();
        let error = refused(&call);
        assert!(error.contains("the entry a is a call of posix.system; only tensors are read"), "{error}");
        let nested = [&b"\x80\x02}"[..], &text("model"), b"}s."].concat();
        assert!(refused(&nested).contains("the entry model is a table"), "{}", refused(&nested));
        assert!(refused(b"\x80\x02]." as &[u8]).contains("the file holds a list"));
        assert!(refused(b"\x80\x02}").contains("the pickle cannot be read"));
        let older = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(older.path(), b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();
        let error = Pickled::open(older.path()).unwrap_err().to_string();
        assert!(error.contains("no file of PyTorch 1.6 or later"), "{error}");
    }
}
