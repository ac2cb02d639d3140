//! Running a kernel: on a CUDA device its compiled code, on candle's CPU device the
//! same text compiled for the processor.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::cuda::cudarc::driver::DeviceRepr;
use candle_core::{CpuStorage, CudaStorage, DType, Device, InplaceOp1, Layout, Storage, Tensor};
use half::bf16;

use super::arrays::{Arrays, INPUTS, Made, address, place, place_here, place_to_write, read};
use super::driver::{Function, Module};
use super::kernels::{Kernel, Known};
use super::numbers::Numbers;
use super::simulated::Simulated;
use crate::backend::BackendError;
use crate::device::Precision;

type Result<T> = std::result::Result<T, BackendError>;

/// The kernels for compute capabilities 8.0 and 9.0, and PTX for later ones.
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Blocks of a launch at most; beyond, each warp or block takes several rows.
const BLOCKS: usize = 65_536;

/// The kernels of a GPU.
struct Cuda {
    module: Module,
    /// Those that have run, by name and what it ends in: the driver looks them up once.
    ready: Mutex<BTreeMap<[&'static str; 2], Function>>,
}

/// The kernels on a device.
#[derive(Clone)]
pub struct Own {
    /// None on candle's CPU device.
    cuda: Option<Arc<Cuda>>,
    /// What runs kernels on candle's CPU device in the place of their text for it.
    instead: Option<Arc<dyn Instead>>,
    /// What the products of attention's tiles are of: with `Tf32` and `Bf16` tensor cores
    /// make them, of numbers rounded to that.
    pub(super) precision: Precision,
    /// Multiprocessors of the device: by them it is chosen how many rows a block takes, and how many
    /// warps share a row.
    pub(super) multiprocessors: usize,
}

impl Own {
    /// The kernels, loaded on a device.
    ///
    /// # Errors
    /// A device that takes no kernels of CUDA.
    pub fn new(device: &Device) -> Result<Own> {
        let mut multiprocessors = 1;
        let cuda = match device {
            Device::Cpu => None,
            Device::Cuda(device) => {
                let module = Module::new(IMAGE, device.cuda_stream());
                let module = module.map_err(|error| wrong("the kernels do not load", error))?;
                multiprocessors = module.multiprocessors;
                Some(Arc::new(Cuda { module, ready: Mutex::default() }))
            }
            Device::Metal(_) => return Err(BackendError::Wrong("Metal takes no kernels of CUDA".into())),
        };
        Ok(Own { cuda, instead: None, precision: Precision::Fp32, multiprocessors })
    }

    /// The kernels on candle's CPU device, as a GPU runs them.
    pub fn simulated(gpu: Simulated) -> Own {
        Own { cuda: None, instead: Some(Arc::new(gpu)), precision: Precision::Fp32, multiprocessors: 1 }
    }

    /// The same kernels, which compute in another precision.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Own {
        Own { precision, ..self }
    }

    /// The same kernels, launched as for a device of so many multiprocessors.
    #[must_use]
    pub fn for_multiprocessors(self, multiprocessors: usize) -> Own {
        Own { multiprocessors, ..self }
    }

    /// Runs a kernel on inputs, fp32, bf16 or u32, some of which may be left out. Makes
    /// outputs of so many elements each, flat; of 0 for one that is not wanted.
    ///
    /// # Errors
    /// Memory that is not to be had; what the driver says.
    pub fn run<N: Numbers + DeviceRepr, const OUTPUTS: usize>(
        &self,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[Option<&Tensor>],
        outputs: [impl Into<Made>; OUTPUTS],
    ) -> Result<[Tensor; OUTPUTS]> {
        let inputs = inputs.iter().map(|input| input.map(Tensor::contiguous).transpose());
        let inputs: Vec<Option<Tensor>> = inputs.collect::<candle_core::Result<_>>()?;
        let read: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
        let outputs = outputs.map(Into::into);
        let made = match &self.cuda {
            None => self.on_cpu(kernel, numbers, &read, &outputs)?,
            Some(cuda) => {
                let device = inputs.iter().flatten().next().map(Tensor::device);
                let device = device.ok_or_else(|| BackendError::Wrong("a kernel without input".into()))?;
                // SAFETY: the kernel writes all elements of what it is given to write.
                let empty = |made: &Made| unsafe { Tensor::empty(made.count, made.dtype, device) };
                let made = outputs.iter().map(empty).collect::<candle_core::Result<Vec<_>>>()?;
                let written: Vec<Option<&Tensor>> =
                    made.iter().map(|tensor| (tensor.elem_count() > 0).then_some(tensor)).collect();
                self.launch(cuda, kernel, numbers, &read, &written)?;
                made
            }
        };
        Ok(made.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for")))
    }

    /// As [`Self::run`], on arrays that lie where the inputs say, which are contiguous.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_in_place<N: Numbers + DeviceRepr>(
        &self,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[&Tensor],
    ) -> Result<()> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        match &self.cuda {
            None => self.on_cpu(kernel, numbers, &inputs, &[]).map(|_| ()),
            Some(cuda) => self.launch(cuda, kernel, numbers, &inputs, &[]),
        }
    }

    /// As [`Self::run`], whose only output is an array that there is, contiguous, of f32
    /// or bf16, and of no other tensor that is read later. Kernels add to it or write to it.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_into<N: Numbers + DeviceRepr>(
        &self,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[Option<&Tensor>],
        into: &Tensor,
    ) -> Result<()> {
        let inputs = inputs.iter().map(|input| input.map(Tensor::contiguous).transpose());
        let inputs = inputs.collect::<candle_core::Result<Vec<Option<Tensor>>>>()?;
        let inputs = inputs.iter().map(Option::as_ref).collect();
        Ok(into.inplace_op1(&InPlace { own: self, kernel, numbers, inputs })?)
    }

    /// Whether the device has the shared memory that a kernel asks for.
    ///
    /// # Errors
    /// A kernel that is not known.
    pub fn takes<N>(&self, kernel: &Kernel<N>) -> Result<bool> {
        let Some(cuda) = &self.cuda else { return Ok(true) };
        Ok(kernel.known()?.shared_bytes() <= cuda.module.shared_bytes)
    }

    /// Whether this is a GPU, in whose memory arrays have addresses of their own.
    pub fn on_gpu(&self) -> bool {
        self.cuda.is_some()
    }

    /// The address of a contiguous tensor's first element on the GPU.
    ///
    /// # Errors
    /// A tensor that lies elsewhere.
    pub fn address(&self, tensor: &Tensor) -> Result<u64> {
        let Some(cuda) = &self.cuda else {
            return Err(BackendError::Wrong("the tensor is not on a GPU".into()));
        };
        Ok(address(tensor, cuda.module.stream())?)
    }
}

/// What runs kernels on the processor, but for their text. It is no part of a program that
/// does not name it.
pub trait Instead: Send + Sync {
    /// Runs a kernel, by its name, of so many blocks and threads of a block.
    ///
    /// # Safety
    /// The arrays are as long as the numbers say, which are those of the kernel.
    ///
    /// # Errors
    /// What went wrong.
    unsafe fn run(
        &self,
        name: &'static str,
        blocks_and_threads: [usize; 2],
        arrays: &Arrays,
        numbers: *const c_void,
    ) -> Result<()>;
}

/// A kernel that writes to an array that there is.
struct InPlace<'a, N: 'static> {
    own: &'a Own,
    kernel: &'a Kernel<N>,
    numbers: N,
    inputs: Vec<Option<&'a Tensor>>,
}

impl<N: Numbers + DeviceRepr> InplaceOp1 for InPlace<'_, N> {
    fn name(&self) -> &'static str {
        self.kernel.name
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let mut arrays = Arrays::default();
        arrays.outputs[0] = place_to_write(storage, layout.start_offset())?;
        arrays.note(INPUTS, storage.dtype());
        self.own.call(self.kernel, self.numbers, &self.inputs, arrays).map_err(candle_core::Error::msg)
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some(cuda) = &self.own.cuda else { candle_core::bail!("the kernels are not on the GPU") };
        let mut arrays = read(&self.inputs, cuda.module.stream())?;
        arrays.outputs[0] = place(storage, layout, cuda.module.stream())?;
        arrays.note(INPUTS, storage.dtype());
        self.own.start(cuda, self.kernel, self.numbers, &arrays).map_err(candle_core::Error::msg)
    }
}

/// What the driver says, by which memory that has ended is known.
fn wrong(what: &str, error: impl std::fmt::Display) -> BackendError {
    candle_core::Error::msg(format!("{what}: {error}")).into()
}

impl Cuda {
    /// The kernel for these arrays and numbers as the driver knows it, which gets the shared
    /// memory that it asks for.
    fn ready<N>(&self, kernel: &Kernel<N>, known: &Known, arrays: &Arrays, numbers: &N) -> Result<Function> {
        // SAFETY: these are the kernel's numbers.
        let name = [kernel.name, unsafe { known.suffix(arrays, numbers) }];
        let mut all = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = all.get(&name) {
            return Ok(*function);
        }
        let function = self.module.function(&name.concat(), known.shared_bytes());
        let function = function.map_err(|error| wrong(kernel.name, error))?;
        all.insert(name, function);
        Ok(function)
    }
}

impl Own {
    fn launch<N: Numbers + DeviceRepr>(
        &self,
        cuda: &Cuda,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[Option<&Tensor>],
        outputs: &[Option<&Tensor>],
    ) -> Result<()> {
        let mut arrays = read(inputs, cuda.module.stream())?;
        for (number, tensor) in outputs.iter().enumerate() {
            if let Some(tensor) = tensor {
                arrays.outputs[number] = address(tensor, cuda.module.stream())?;
                arrays.note(INPUTS + number, tensor.dtype());
            }
        }
        self.start(cuda, kernel, numbers, &arrays)
    }

    fn start<N: Numbers + DeviceRepr>(
        &self,
        cuda: &Cuda,
        kernel: &Kernel<N>,
        numbers: N,
        arrays: &Arrays,
    ) -> Result<()> {
        let known = kernel.known()?;
        let function = cuda.ready(kernel, known, arrays, &numbers)?;
        let blocks = known.blocks(numbers.rows(), kernel.threads, self.multiprocessors).min(BLOCKS) as u32;
        if blocks == 0 {
            return Ok(());
        }
        let sizes = [blocks, kernel.threads, known.shared_bytes() as u32];
        // SAFETY: the kernel takes these two structures; the arrays are as long as the
        // numbers say, and freed on the same stream.
        let launched = unsafe { cuda.module.launch(function, sizes, arrays, &numbers) };
        launched.map_err(|error| wrong(kernel.name, error))
    }

    fn on_cpu<N: Numbers>(
        &self,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[Option<&Tensor>],
        outputs: &[Made],
    ) -> Result<Vec<Tensor>> {
        let zeros = |made: &Made| match made.dtype {
            DType::BF16 => CpuStorage::BF16(vec![bf16::ZERO; made.count]),
            _ => CpuStorage::F32(vec![0.0; made.count]),
        };
        let mut storages: Vec<CpuStorage> = outputs.iter().map(zeros).collect();
        let mut arrays = Arrays::default();
        for (number, (storage, made)) in storages.iter_mut().zip(outputs).enumerate() {
            if made.count > 0 {
                arrays.outputs[number] = place_to_write(storage, 0)?;
                arrays.note(INPUTS + number, made.dtype);
            }
        }
        self.call(kernel, numbers, inputs, arrays)?;
        let tensors = storages.into_iter().zip(outputs).map(|(storage, made)| match storage {
            CpuStorage::F32(elements) => Tensor::from_vec(elements, made.count, &Device::Cpu),
            CpuStorage::BF16(elements) => Tensor::from_vec(elements, made.count, &Device::Cpu),
            _ => candle_core::bail!("a kernel makes no array of this kind"),
        });
        Ok(tensors.collect::<candle_core::Result<_>>()?)
    }

    /// Calls the text for the processor; outputs are known.
    fn call<N: Numbers>(
        &self,
        kernel: &Kernel<N>,
        numbers: N,
        inputs: &[Option<&Tensor>],
        mut arrays: Arrays,
    ) -> Result<()> {
        let guards: Vec<_> = inputs.iter().map(|input| input.map(Tensor::storage_and_layout)).collect();
        for (number, guard) in guards.iter().enumerate() {
            let Some((storage, layout)) = guard else { continue };
            let Storage::Cpu(storage) = &**storage else {
                return Err(BackendError::Wrong(format!("{}: an array elsewhere", kernel.name)));
            };
            arrays.inputs[number] = place_here(storage, layout)?;
            arrays.note(number, storage.dtype());
        }
        let known = kernel.known()?;
        match &self.instead {
            // SAFETY: the arrays are as long as the numbers say.
            None => unsafe { known.run(&arrays, &numbers) },
            Some(instead) => {
                let blocks = known.blocks(numbers.rows(), kernel.threads, self.multiprocessors);
                // SAFETY: as above; these are the kernel's numbers.
                unsafe {
                    instead.run(
                        kernel.name,
                        [blocks, kernel.threads as usize],
                        &arrays,
                        (&raw const numbers).cast(),
                    )
                }?;
            }
        }
        Ok(())
    }
}
