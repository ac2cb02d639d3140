//! `host merge`: a trained cell as a model that others can load.

use anyhow::{Result, bail};
use host_engine::device::{Device, Precision};

use super::arguments::{MergeArguments, StoredPrecision};
use super::{sources, terminal};
use crate::runs::directory::finished_cells;
use crate::runs::record::Finished;
use crate::session;

pub fn merge(arguments: &MergeArguments) -> Result<()> {
    let mut cells = finished_cells(&arguments.run)?;
    cells.retain(|cell| {
        let spec = &cell.record.spec;
        arguments.method.as_ref().is_none_or(|method| *method == spec.label)
            && arguments.seed.is_none_or(|seed| u64::from(seed) == spec.seed)
    });
    let cell = match cells.as_slice() {
        [cell] => cell,
        [] => bail!("{} has no finished cell of this method and seed", arguments.run.display()),
        several => {
            let named =
                |cell: &Finished| format!("\n  {} in {}", cell.record.spec.title(), cell.directory.display());
            bail!(
                "{} has several such cells; choose one with --method and --seed, or name its directory instead of {0}:{}",
                arguments.run.display(),
                several.iter().map(named).collect::<String>()
            )
        }
    };
    cell.check()?;
    let precision = match arguments.precision {
        StoredPrecision::F32 => host_engine::files::write::Precision::F32,
        StoredPrecision::F16 => host_engine::files::write::Precision::F16,
        StoredPrecision::Bf16 => host_engine::files::write::Precision::Bf16,
    };
    let mut spec = sources::again(&arguments.elsewhere.applied(&cell.record.spec)?)?;
    // Whatever it was trained on: nothing is computed that would ask for a GPU.
    (spec.device, spec.precision) = (Device::Cpu, Precision::Fp32);
    session::merge_cell(&spec, &cell.directory, &arguments.out, precision, !arguments.without_head)?;
    terminal::print(&format!("{} is in {}\n", spec.title(), arguments.out.display()))
}
