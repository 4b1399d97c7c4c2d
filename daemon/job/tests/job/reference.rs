//! What the key table generates. The schema and the page are golden files:
//! `R1D_UPDATE_GOLDENS=1 cargo test -p r1d-job` rewrites them.

use r1d_job::reference::{explain, job_schema, page};
use std::path::Path;

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
