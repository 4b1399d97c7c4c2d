//! `plugin new`: a directory that builds, from the template of a language. A Rust plugin gets the
//! sources of reward-sdk with it, so that it only needs cargo and its registry.

use super::embedded::{SDK, TEMPLATES};
use crate::cli::plugin::Language;
use crate::error::{Ended, Error};
use crate::print::{self, Printer};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Stands for the plugin's name in the templates, also in file names.
const NAME: &str = "{{name}}";
/// Stands for the path of reward-sdk in the manifest.
const SDK_PLACE: &str = "{{reward_sdk}}";
/// The interface, for languages that read it when they build.
const WIT: &str = "wit/reward.wit";
/// A template's `.gitignore`, without the dot, with which it would apply to this repository.
const GITIGNORE: &str = "gitignore";
const NAME_BYTES_MAX: usize = 64;

impl Language {
    fn directory(self) -> &'static str {
        match self {
            Language::Rust => "rust",
            Language::Python => "python",
            Language::Js => "js",
        }
    }
}

pub(super) fn run(
    name: &str,
    language: Language,
    sdk: Option<&Path>,
    printer: &Printer,
) -> Result<Ended, Error> {
    check(name)?;
    if sdk.is_some() && language != Language::Rust {
        return Err(Error::Plugin(
            "--sdk is for --lang rust: the others need no SDK".into(),
        ));
    }
    let prefix = format!("{}/", language.directory());
    let template: Vec<(&str, &str)> = TEMPLATES
        .iter()
        .filter_map(|(path, text)| Some((path.strip_prefix(&prefix)?, *text)))
        .collect();
    if template.is_empty() {
        return Err(Error::Plugin(format!(
            "this r1ctl was built without a template for {}",
            language.directory()
        )));
    }
    let sdk_path = match sdk {
        Some(path) if path.join("Cargo.toml").is_file() => {
            std::path::absolute(path).map_err(|source| file(path, source))?
        }
        Some(path) => {
            return Err(Error::Plugin(format!(
                "--sdk {}: has no Cargo.toml",
                path.display()
            )));
        }
        None => "reward-sdk".into(),
    };
    let root = Path::new(name);
    // Fails if the directory exists, so that no file is overwritten.
    fs::create_dir(root).map_err(|source| file(root, source))?;
    for (path, text) in template {
        let path = if path == GITIGNORE {
            ".gitignore".into()
        } else {
            path.replace(NAME, name)
        };
        write(
            &root.join(path),
            &text
                .replace(NAME, name)
                .replace(SDK_PLACE, &sdk_path.display().to_string()),
        )?;
    }
    let (below, wanted): (&str, fn(&str) -> bool) = match language {
        Language::Rust => ("reward-sdk", |_| true),
        Language::Python | Language::Js => ("", |path| path == WIT),
    };
    for (path, text) in SDK.iter().filter(|(path, _)| sdk.is_none() && wanted(path)) {
        write(&root.join(below).join(path), text)?;
    }
    print::data(&format!("{name}\n"))?;
    printer.note(&format!(
        "next: r1ctl plugin test {name}; its README.md says more"
    ));
    Ok(Ended::Ok)
}

/// Checks that a crate, a file and a reward of a job can all have this name.
fn check(name: &str) -> Result<(), Error> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !plain
        || !name.starts_with(|first: char| first.is_ascii_lowercase())
        || name.ends_with('-')
        || name.len() > NAME_BYTES_MAX
    {
        return Err(Error::Plugin(format!(
            "{name:?} is no name of a plugin: lower-case letters, digits and dashes, at most \
             {NAME_BYTES_MAX}, the first a letter"
        )));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|source| file(parent, source))?;
    }
    fs::write(path, text).map_err(|source| file(path, source))?;
    if text.starts_with("#!") {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .map_err(|source| file(path, source))?;
    }
    Ok(())
}

fn file(path: &Path, source: std::io::Error) -> Error {
    Error::File {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates_files_and_rewards() {
        for good in ["a", "brief", "soft-overlong-2"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "1a",
            "a_b",
            "a/b",
            "..",
            "a.b",
            "-a",
            "a-",
            "é",
            &"a".repeat(65),
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reward_sdk_travels_without_its_workspace() {
        let text = |wanted: &str| {
            SDK.iter()
                .find(|(path, _)| *path == wanted)
                .map(|(_, text)| *text)
                .unwrap_or_default()
        };
        for manifest in ["Cargo.toml", "macros/Cargo.toml"] {
            assert!(
                text(manifest).contains("[package]") && !text(manifest).contains("workspace"),
                "{}",
                text(manifest)
            );
        }
        assert!(
            text("src/lib.rs").contains("pub trait Reward")
                && text("wit/reward.wit").contains("package r1d:reward")
        );
    }
}
