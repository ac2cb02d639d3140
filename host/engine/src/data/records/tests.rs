//! Every container, and what is wrong with one.

use std::io::Write;

use super::*;

type Read = (Vec<(u64, String)>, Vec<String>);

fn read_file(name: &str, content: &[u8], container: Container) -> Result<Read, FileError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let (mut records, mut unreadable) = (Vec::new(), Vec::new());
    read(&path, container, |chunk| {
        records.extend(chunk.records.into_iter().map(|record| (record.origin.line, record.text)));
        unreadable.extend(chunk.unreadable);
        Ok::<(), FileError>(())
    })?;
    let short = |sentence: String| sentence.split_once(name).unwrap().1.to_string();
    Ok((records, unreadable.into_iter().map(short).collect()))
}

fn read_all(content: &[u8], container: Container) -> Read {
    read_file("data", content, container).unwrap()
}

fn expect(records: &[(u64, &str)]) -> Vec<(u64, String)> {
    records.iter().map(|(line, text)| (*line, text.to_string())).collect()
}

#[test]
fn lines_know_their_numbers() {
    let (records, _) = read_all("\u{feff}1 a\r\n\n2 č".as_bytes(), Container::Lines);
    assert_eq!(records, expect(&[(1, "1 a"), (3, "2 č")]));
}

#[test]
fn blocks_end_at_empty_lines() {
    let (records, _) = read_all(b"a\nb\n\n\nc\n", Container::Blocks);
    assert_eq!(records, expect(&[(1, "a\nb\n"), (5, "c\n")]));
}

#[test]
fn documents_stand_between_their_marks() {
    let text =
        b"#begin document (a); part 000\nx\n\ny\n#end document\n\n#begin document (b)\n#end document\n";
    let (records, unreadable) = read_all(text, Container::Documents);
    let first = "#begin document (a); part 000\nx\n\ny\n#end document\n";
    assert_eq!(records, expect(&[(1, first), (7, "#begin document (b)\n#end document\n")]));
    assert!(unreadable.is_empty());
    let (records, unreadable) = read_all(
        b"x\n#begin document (a)\n#begin document (b)\n#end document\n#begin document (c)\n",
        Container::Documents,
    );
    assert_eq!(records, expect(&[(3, "#begin document (b)\n#end document\n")]));
    assert_eq!(
        unreadable,
        [
            ":1: the line stands outside a document; #begin document is wanted",
            ":2: the document has no line #end document before the next one",
            ":5: the document has no line #end document"
        ]
    );
}

#[test]
fn a_file_may_be_one_record() {
    let (records, _) = read_all("\u{feff}a\n\nb".as_bytes(), Container::Whole);
    assert_eq!(records, expect(&[(1, "a\n\nb")]));
}

#[test]
fn bad_lines_are_named_and_the_next_are_read() {
    let (records, unreadable) = read_all(b"good\nb\xffd\nfine\n", Container::Lines);
    assert_eq!(records, expect(&[(1, "good"), (3, "fine")]));
    assert_eq!(unreadable, [":2: the line is no UTF-8 text from byte 2 on; convert the file to UTF-8"]);
    let (records, unreadable) = read_all(b"{}\n{\n[]\n{}", Container::JsonLines);
    assert_eq!(records, expect(&[(1, "{}"), (4, "{}")]));
    assert!(
        unreadable[0].starts_with(":2: column 1: no JSON object: EOF while parsing an object"),
        "{unreadable:?}"
    );
    assert!(!unreadable[0].contains("at line"), "{unreadable:?}");
    assert_eq!(unreadable[1], ":3: column 1: a JSON object is wanted on each line");
}

#[test]
fn tables_have_quotation_marks_line_ends_and_empty_cells() {
    let csv = "\u{feff}idx, label,text\n0,True,\"a, \"\"b\"\"\nc\"\n\n1,,d\n2,False\n3,False,e\n";
    let (records, unreadable) = read_all(csv.as_bytes(), Container::Csv);
    assert_eq!(
        records,
        expect(&[
            (2, r#"{"idx":"0","label":"True","text":"a, \"b\"\nc"}"#),
            (5, r#"{"idx":"1","label":null,"text":"d"}"#),
            (7, r#"{"idx":"3","label":"False","text":"e"}"#)
        ])
    );
    assert_eq!(unreadable, [":6: there are 2 cells, and the first line names 3 columns (idx, label, text)"]);
    // Windows' ends of lines, empty lines among them.
    let (records, _) = read_all(b"a,b\r\n\r\nx,y\r\n\r\n\r\nz,\"u\r\nv\"", Container::Csv);
    let lines: Vec<u64> = records.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 6]);
    // A quotation mark means nothing between tabs.
    let (records, _) = read_all(b"a\tb\n\"x\ty\n", Container::Tsv);
    assert_eq!(records, expect(&[(2, r#"{"a":"\"x","b":"y"}"#)]));
    let (_, unreadable) = read_all(b"a,b\nx,\xff\n", Container::Csv);
    assert_eq!(unreadable, [":2: the cell of the column \"b\" is no UTF-8 text; convert the file to UTF-8"]);
    let error = read_file("data", b"a,a\n", Container::Csv).unwrap_err().to_string();
    assert!(error.ends_with("data:1: two columns are called \"a\""), "{error}");
}

/// The rest of the file would be one cell.
#[test]
fn a_missing_quotation_mark_does_not_fill_the_memory() {
    let mut content = b"a,b\nx,\"y\n".to_vec();
    content.resize(LONGEST_RECORD + (2 << 20), b'z');
    let error = read_file("data", &content, Container::Csv).unwrap_err().to_string();
    assert!(error.contains("is a quotation mark missing?"), "{error}");
}

#[test]
fn packed_files_are_unpacked() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(b"one\ntwo\n").unwrap();
    let packed = packed.finish().unwrap();
    let (records, _) = read_file("data.txt.gz", &packed, Container::Lines).unwrap();
    assert_eq!(records, expect(&[(1, "one"), (2, "two")]));
    assert!(read_file("data.txt.gz", &packed[..8], Container::Lines).is_err());
}

#[test]
fn chunks_are_small_however_large_the_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    // Long lines, and short ones, of which the records are larger than their texts.
    for (length, lines) in [(1 << 10, 4 << 10), (1, 10_000)] {
        std::fs::write(&path, format!("{}\n", "x".repeat(length)).repeat(lines)).unwrap();
        let mut sizes = Vec::new();
        read(&path, Container::Lines, |chunk| {
            sizes.push(chunk.records.len());
            Ok::<(), FileError>(())
        })
        .unwrap();
        let full = CHUNK.div_ceil(size_of::<Record>() + length);
        let (last, others) = sizes.split_last().unwrap();
        assert!(*last <= full && others.len() > 1 && others.iter().all(|size| *size == full), "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), lines);
    }
}

/// Written by tests/reference/parquet.py with pyarrow, in two row groups, as the
/// hub stores questions with choices.
#[test]
fn parquet_has_nested_columns() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/choices.parquet");
    let mut found = Vec::new();
    read(&path, Container::Parquet, |chunk| {
        found.extend(chunk.records.into_iter().map(|record| (record.origin.line, record.json.unwrap())));
        Ok::<(), FileError>(())
    })
    .unwrap();
    let row = |number: u64, answer: serde_json::Value| {
        serde_json::json!({
            "id": format!("q{number}"), "question": format!("Where is {number}? \u{10d}"),
            "choices": { "label": ["A", "B"], "text": [format!("here {number}"), "there"] },
            "answer": answer, "grade": number, "sure": number % 2 == 1,
        })
    };
    let wanted = [(1, row(0, "A".into())), (2, row(1, serde_json::Value::Null)), (3, row(2, "B".into()))];
    assert_eq!(found, wanted);
    let error = read_file("data.parquet", b"no parquet", Container::Parquet).unwrap_err().to_string();
    assert!(error.contains("data.parquet: the file cannot be read as Parquet"), "{error}");
}
