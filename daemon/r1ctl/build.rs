//! Embeds what `r1ctl plugin new` writes: the sources of reward-sdk, and the template of each
//! language (`reward-sdk/templates/LANGUAGE/`). An installed r1ctl needs no repository.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?)
        .join("../..")
        .canonicalize()?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let sdk = root.join("reward-sdk");
    let mut source = String::new();
    writeln!(source, "pub(crate) static SDK: &[(&str, &str)] = &[")?;
    for crate_dir in ["", "macros"] {
        let manifest = standalone(&root, &sdk.join(crate_dir).join("Cargo.toml"))?;
        let name = Path::new(crate_dir).join("Cargo.toml");
        writeln!(source, "    ({name:?}, {manifest:?}),")?;
        for dir in ["src", "wit"] {
            embed(&mut source, &sdk, &sdk.join(crate_dir).join(dir))?;
        }
    }
    writeln!(
        source,
        "];\npub(crate) static TEMPLATES: &[(&str, &str)] = &["
    )?;
    embed(&mut source, &sdk.join("templates"), &sdk.join("templates"))?;
    writeln!(source, "];")?;
    std::fs::write(out.join("embedded.rs"), source)?;
    Ok(())
}

/// Every file under `dir` as `(path from base, text)`.
fn embed(source: &mut String, base: &Path, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={}", dir.display());
    if !dir.is_dir() {
        return Ok(());
    }
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if ["target", "node_modules", "__pycache__", "dist", "build-out"].contains(&name.as_ref())
            || name.ends_with(".wasm")
        {
            continue;
        }
        if path.is_dir() {
            embed(source, base, &path)?;
        } else {
            println!("cargo::rerun-if-changed={}", path.display());
            writeln!(
                source,
                "    ({:?}, include_str!({path:?})),",
                path.strip_prefix(base)?
            )?;
        }
    }
    Ok(())
}

/// A manifest without its workspace: what it inherits is written out, lints and tests' dependencies
/// are left out.
fn standalone(root: &Path, manifest: &Path) -> Result<String, Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={}", manifest.display());
    println!(
        "cargo::rerun-if-changed={}",
        root.join("Cargo.toml").display()
    );
    let workspace: toml::Table = std::fs::read_to_string(root.join("Cargo.toml"))?.parse()?;
    let workspace = &workspace["workspace"];
    let mut table: toml::Table = std::fs::read_to_string(manifest)?.parse()?;
    table.retain(|key, _| !["lints", "dev-dependencies"].contains(&key));
    for (key, value) in table
        .get_mut("package")
        .and_then(toml::Value::as_table_mut)
        .into_iter()
        .flatten()
    {
        inherit(&workspace["package"], key, value);
    }
    let targets = table
        .get_mut("target")
        .and_then(toml::Value::as_table_mut)
        .into_iter()
        .flatten();
    targets
        .filter_map(|(_, target)| target.get_mut("dependencies"))
        .for_each(|table| inherit_dependencies(workspace, table));
    if let Some(table) = table.get_mut("dependencies") {
        inherit_dependencies(workspace, table);
    }
    Ok(toml::to_string(&table)?)
}

fn inherit_dependencies(workspace: &toml::Value, table: &mut toml::Value) {
    for (name, value) in table.as_table_mut().into_iter().flatten() {
        inherit(&workspace["dependencies"], name, value);
    }
}

fn inherit(workspace: &toml::Value, key: &str, value: &mut toml::Value) {
    if value.get("workspace").and_then(toml::Value::as_bool) == Some(true) {
        *value = match key {
            // The one crate that comes along.
            "reward-sdk-macros" => toml::Value::Table(
                [("path".to_owned(), toml::Value::String("macros".into()))]
                    .into_iter()
                    .collect(),
            ),
            _ => workspace[key].clone(),
        };
    }
}
