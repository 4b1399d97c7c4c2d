//! What a template makes of a row.

/// A prompt, and the prompt with its completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The prompt alone.
    pub prompt: String,
    /// Prompt and completion. It may not begin with `prompt`, because a chat template may write a
    /// prompt differently if something follows.
    pub whole: String,
    /// Whether the template has already written the end of the completion.
    pub is_ended: bool,
}
