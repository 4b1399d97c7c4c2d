//! What the key table generates. The schema and the page are golden files:
//! `R1D_UPDATE_GOLDENS=1 cargo test -p r1d-job` rewrites them.

use r1d_job::reference::{job_schema, page};
use serde_json::{Value, json};
use std::path::Path;

/// What is printed of a key.
fn explain(asked: &str) -> Result<String, String> {
    r1d_job::reference::explain(asked).map(|explained| explained.to_string())
}

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/job/golden")
        .join(name);
    if std::env::var_os("R1D_UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        known == text,
        "{} is not what the key table says: look at the change, then R1D_UPDATE_GOLDENS=1 cargo \
         test -p r1d-job",
        path.display()
    );
}

#[test]
fn the_reference_page_and_the_schema_are_up_to_date() {
    golden("reference.md", &page());
    golden(
        "job.schema.json",
        &(serde_json::to_string_pretty(&job_schema()).unwrap() + "\n"),
    );
}

#[test]
fn explain_shows_type_default_and_meaning() {
    let text = explain("num_generations").unwrap();
    assert!(
        text.contains(
            "stage.num_generations in job.toml, kind = \"grpo\"\n  Completions of each prompt: \
             the group"
        ),
        "{text}"
    );
    assert!(
        text.contains("default: 8 completions")
            && text.contains("eval.num_generations in job.toml"),
        "{text}"
    );
    assert!(
        explain("listen.socket")
            .unwrap()
            .contains("Unix socket of r1ctl")
    );
    assert!(
        explain("stage.reward")
            .unwrap()
            .contains("keys: plugin, name, weight")
    );
    assert_eq!(
        explain("num_generatoins").unwrap_err(),
        "there is no key `num_generatoins`; the nearest is `num_generations`"
    );
    assert_eq!(
        explain("max_steps").unwrap_err(),
        "there is no key `max_steps`; the nearest is `steps`"
    );
}

#[test]
fn explain_says_once_what_holds_for_several_kinds_of_stage() {
    let text = explain("learning_rate").unwrap();
    let heads = text.lines().filter(|line| line.starts_with("stage."));
    let heads: Vec<&str> = heads.collect();
    assert!(
        heads
            .iter()
            .any(|head| head.contains("kind = \"sft\", \"distill\"")),
        "{text}"
    );
    let mut blocks: Vec<&str> = text.split("\n\n").collect();
    let all = blocks.len();
    blocks.sort_unstable_by_key(|block| block.split_once('\n').map(|(_, what)| what));
    blocks.dedup_by_key(|block| block.split_once('\n').map(|(_, what)| what));
    assert_eq!(blocks.len(), all, "{text}");
}

#[test]
fn a_key_is_found_by_a_part_of_its_name_and_by_a_path_of_the_file() {
    let by_part = explain("generations").unwrap();
    assert_eq!(by_part, explain("num_generations").unwrap());
    let path = explain("data.NAME.path").unwrap();
    for asked in ["data.path", "data.train.path", "[data.train.path]"] {
        assert_eq!(explain(asked).unwrap(), path, "{asked}");
    }
    assert!(path.starts_with("data.NAME.path in job.toml\n"), "{path}");
    assert!(
        explain("[data.train]")
            .unwrap()
            .starts_with("[data.NAME] in")
    );
    let in_most = explain("e").unwrap_err();
    assert!(in_most.contains("; the nearest is `"), "{in_most}");
    let several = explain("max_").unwrap_err();
    assert!(
        several.starts_with("there is no key `max_`; it is part of `")
            && several.contains("`max_length`"),
        "{several}"
    );
}

/// A program reads each fact of a key by itself.
#[test]
fn what_is_explained_is_structured() {
    let of = |asked: &str| {
        let explained = r1d_job::reference::explain(asked).unwrap();
        serde_json::to_value(explained).unwrap()
    };
    let number = of("eval.num_generations");
    assert_eq!(number["tables"], json!([]));
    let known = json!({
        "file": "job.toml",
        "path": "eval.num_generations",
        "key": "num_generations",
        "takes": "an integer from 1 to 16384",
        "schema": { "type": "integer", "minimum": 1, "maximum": 16384 },
        "required": false,
        "default": 1,
        "unit": "completions",
        "meaning": "Completions of each prompt."
    });
    assert_eq!(number["keys"], json!([known]));
    let required = &of("eval.data")["keys"][0];
    assert_eq!(
        (&required["required"], required.get("default")),
        (&json!(true), None)
    );
    let unset = &of("parallel.data")["keys"][0];
    assert!(
        unset["unset"]
            .as_str()
            .unwrap()
            .starts_with("the devices of the node")
    );
    let kinds = of("learning_rate");
    let keys = kinds["keys"].as_array().unwrap();
    let is_shared = |key: &Value| {
        let kinds = key["kinds"].as_array().unwrap();
        ["sft", "distill"]
            .iter()
            .all(|kind| kinds.contains(&json!(kind)))
    };
    assert!(keys.iter().any(is_shared), "{kinds}");
    let table = &of("stage.reward")["tables"][0];
    let is_weight = |key: &Value| key == "weight";
    assert_eq!(table["path"], "stage.reward");
    assert!(
        table["keys"].as_array().unwrap().iter().any(is_weight),
        "{table}"
    );
    let tables = &of("stage.reward")["keys"][0];
    assert!(
        tables.get("schema").is_none() && tables["takes"] == "an array of tables [[stage.reward]]"
    );
}
