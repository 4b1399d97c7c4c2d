//! Words in fonts: `\text{…}` and its relatives.

/// Commands whose argument is words.
pub(crate) const FONTS: [&str; 6] = [
    "\\text{",
    "\\textbf{",
    "\\mathrm{",
    "\\textit{",
    "\\mathbf{",
    "\\mbox{",
];

/// Takes off `\text{…}` and its relatives where they hold only words: `\text{June }20` → `June 20`.
pub(crate) fn unfonted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, font)) = FONTS
        .iter()
        .filter_map(|font| Some((rest.find(font)?, font)))
        .min()
    {
        let Some((before, inside)) = rest
            .split_at_checked(at)
            .map(|(before, after)| (before, after.get(font.len()..).unwrap_or_default()))
        else {
            break;
        };
        let Some((words, after)) = inside
            .split_once('}')
            .filter(|(words, _)| !words.contains(['{', '\\']))
        else {
            break;
        };
        out.push_str(before);
        out.push_str(words);
        rest = after;
    }
    out.push_str(rest);
    out
}
