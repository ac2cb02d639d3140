//! Apache Parquet, the hub's own form of data sets: a row is an object. Row groups
//! are read one after another, and of these one page of each column at a time.
//! A record's line is the number of its row.

use std::fs::File;

use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::data::records::Chunks;
use crate::files::FileError;

pub fn read<E: From<FileError>>(chunks: &mut Chunks<'_, E>) -> Result<(), E> {
    let file = File::open(chunks.path).map_err(|cause| chunks.error(cause))?;
    let no_parquet =
        |cause: parquet::errors::ParquetError| format!("the file cannot be read as Parquet: {cause}");
    let reader = SerializedFileReader::new(file).map_err(|cause| chunks.error(no_parquet(cause)))?;
    let mut number = 0;
    for group in 0..reader.num_row_groups() {
        let at = |number: u64, cause| format!("row {}: {}", number + 1, no_parquet(cause));
        let group = reader.get_row_group(group).map_err(|cause| chunks.error(at(number, cause)))?;
        let rows = group.get_row_iter(None).map_err(|cause| chunks.error(at(number, cause)))?;
        for row in rows {
            let row = row.map_err(|cause| chunks.error(at(number, cause)))?.to_json_value();
            number += 1;
            chunks.add(number, row.to_string(), Some(row))?;
        }
    }
    Ok(())
}
