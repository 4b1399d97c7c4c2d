//! A job as `job.toml` again.
pub fn job(_job: &crate::Job) -> String {
    todo!()
}
