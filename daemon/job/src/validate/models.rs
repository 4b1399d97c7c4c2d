//! What depends on the models' architectures.

use crate::error::JobError;
use crate::job::Job;
use crate::model_shape::ModelShape;
use crate::stage::Stage;
use crate::validate::parallel::check_experts;

/// Checks what depends on the models' architectures. `facts` are the shapes of [`Job::models`], in
/// their order.
pub fn check_models(job: &Job, facts: &[ModelShape]) -> Result<(), JobError> {
    for stage in &job.stages {
        if let Some(facts) = facts.get(job.model_of(stage)) {
            check(stage, facts)?;
            let experts = facts.routing.map_or(0, |routing| routing.experts);
            check_experts(job, experts)?;
        }
    }
    Ok(())
}

fn check(stage: &Stage, facts: &ModelShape) -> Result<(), JobError> {
    let place = format!("[[stage]] {:?}", stage.name);
    let architecture = &facts.architecture;
    if facts.scores && stage.reward_model().is_none() {
        let problem =
            format!("the model is a {architecture}, a reward model, which writes nothing");
        return Err(JobError::unsound(place, problem, "name a …ForCausalLM"));
    }
    if let Some(key) = stage.prediction_key()
        && facts.prediction.is_none()
    {
        return Err(JobError::unsound(
            place,
            format!("{key}, and the model has no multi-token prediction module"),
            "leave it out, or set num_nextn_predict_layers = 1 in the config.json of a DeepSeek-V3",
        ));
    }
    let known = |target: &String| {
        let last = target.rsplit('.').next().unwrap_or_default();
        target == "all-linear" || facts.linear_layers.iter().any(|layers| layers.name == last)
    };
    let adapters = stage.adapters();
    let mut targets = adapters.iter().flat_map(|lora| &lora.target_modules);
    match targets.find(|target| !known(target)) {
        None => Ok(()),
        Some(target) => Err(JobError::unsound(
            place,
            format!("lora_target_modules has {target:?}, which is no layer of {architecture}"),
            format!(
                "name some of {}, or \"all-linear\"",
                names(facts).join(", ")
            ),
        )),
    }
}

/// Names of the layers that adapters can be put on.
fn names(facts: &ModelShape) -> Vec<&'static str> {
    facts
        .linear_layers
        .iter()
        .map(|layers| layers.name)
        .collect()
}
