//! What the key table generates: `r1ctl explain KEY`, the reference page, the JSON schema of the job file.

/// What `r1ctl explain KEY` prints: every key of that name (or `table.key`) in either file; `Err` names the nearest keys.
pub fn explain(key: &str) -> Result<String, String> {
    let _ = key;
    todo!()
}

/// The reference page, Markdown.
pub fn page() -> String {
    todo!()
}

/// JSON schema (draft 2020-12) of `job.toml`.
pub fn job_schema() -> serde_json::Value {
    todo!()
}
