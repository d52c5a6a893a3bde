//! Compiles `outrider/v1/*.proto` without `protoc`: protox parses them, tonic-prost-build writes the Rust code.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["model", "session", "draft", "target", "generation"].map(|name| format!("outrider/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=outrider");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;

    // Reflection serves this set to clients that know no `.proto` file.
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("outrider_descriptor.bin");
    fs::write(descriptors, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
