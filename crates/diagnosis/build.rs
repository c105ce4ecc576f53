fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    tonic_prost_build::configure()
        .compile_protos(&[format!("{root}/coxswain/diagnosis/v1/diagnosis.proto")], &[root.to_owned()])?;
    Ok(())
}
