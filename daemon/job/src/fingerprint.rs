//! What a stage's outcome depends on: two stages that agree in all of it end with the same weights,
//! data, metrics and evaluations.
//!
//! This module lists the settings, and everything else whose contents or outcome count; the caller
//! hashes those to compute a stage's key.

use crate::eval::Eval;
use crate::file::setting::written;
use crate::job::Job;
use crate::model::Weights;
use crate::reward::{AskedModel, Reward};
use crate::stage::Stage;
use crate::template::TemplateSource;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml::Value;

/// Everything that a stage's outcome depends on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Depends {
    /// Settings of the stage, of the data sets that it reads, and of the evaluations in and after
    /// it, in the form of a job file: the same text each time. Paths of data are left out, because
    /// the files' contents count.
    pub settings: String,
    /// Names of data sets of the job file.
    pub data: BTreeSet<String>,
    /// Indices of earlier stages.
    pub stages: BTreeSet<usize>,
    /// The model that the stage trains or samples, as an index into [`Job::models`].
    pub model: usize,
    /// Plugins as the job names them.
    pub plugins: BTreeSet<String>,
    /// Template files.
    pub files: BTreeSet<PathBuf>,
    /// Directories of the judge models and reward models that rewards ask.
    pub directories: BTreeSet<PathBuf>,
}

/// Returns everything that the outcome of stage `index` depends on; `None` if the job has no such
/// stage.
pub fn depends(job: &Job, index: usize) -> Option<Depends> {
    let stage = job.stages.get(index)?;
    let mut on = Depends {
        model: job.model_of(stage),
        ..Depends::default()
    };
    on.stages.extend(job.origin(stage));
    let evals: Vec<&Eval> = evaluations(job, index, stage).collect();
    let judges: Vec<Reward> = evals
        .iter()
        .flat_map(|eval| job.eval_rewards(eval))
        .collect();
    let own = stage.rollouts().map(|rollouts| &rollouts.rewards);
    for reward in own.into_iter().flatten().chain(&judges) {
        on.judged_by(job, index, reward);
    }
    on.stages.extend(
        stage
            .ppo()
            .and_then(|ppo| job.reward_model(ppo.value_model.as_deref()?)),
    );
    let read = stage.data_sets().chain(stage.held_out());
    for name in read.chain(evals.iter().map(|eval| eval.data.as_str())) {
        on.reads(job, name);
    }
    let templates = on
        .data
        .iter()
        .filter_map(|name| Some(&job.data.get(name)?.template))
        .chain(stage.template());
    let files = templates.filter_map(TemplateSource::file);
    on.files = files.map(Path::to_path_buf).collect();
    on.settings = settings(job, (index, stage), &on.data, &evals, &judges);
    Some(on)
}

impl Depends {
    /// Adds what a reward of stage `index` or of its evaluations depends on.
    fn judged_by(&mut self, job: &Job, index: usize, reward: &Reward) {
        self.plugins.insert(reward.plugin.to_string());
        match job.asked(reward) {
            Some(AskedModel::Stage(maker)) => {
                self.stages
                    .extend(Some(maker).filter(|maker| *maker < index));
            }
            Some(AskedModel::Model(model)) => {
                let model = job.models().nth(model);
                let directory = model.and_then(Weights::directory);
                self.directories.extend(directory.map(Path::to_path_buf));
            }
            Some(AskedModel::Directory(directory)) => {
                self.directories.insert(directory);
            }
            None => {}
        }
    }

    /// Adds a data set that the stage or an evaluation reads.
    fn reads(&mut self, job: &Job, name: &str) {
        if job.data.contains_key(name) {
            self.data.insert(name.into());
        } else {
            // A made data set has the template of its prompts.
            let maker = job.stages.iter().position(|maker| maker.name == name);
            self.stages.extend(maker);
        }
        self.data.extend(job.prompts_of(name).map(String::from));
    }
}

/// The evaluations of [`crate::Job::evals`] that run in and after a stage, and the one that it is
/// itself.
fn evaluations<'a>(job: &'a Job, index: usize, stage: &'a Stage) -> impl Iterator<Item = &'a Eval> {
    let after = stage.trains() && stage.reward_model().is_none();
    let before = job.first_of_own_model() == Some(index);
    job.evals
        .iter()
        .filter(move |eval| after || (before && eval.at_start))
        .chain(stage.evaluation())
}

fn settings(
    job: &Job,
    (index, stage): (usize, &Stage),
    data: &BTreeSet<String>,
    evals: &[&Eval],
    judges: &[Reward],
) -> String {
    let mut table = toml::Table::new();
    // Positions and the seed decide what is drawn.
    table.insert("index".into(), (index as i64).into());
    table.insert(
        "first".into(),
        (job.first_of_own_model() == Some(index)).into(),
    );
    table.insert("seed".into(), (job.seed as i64).into());
    table.insert("batch_invariant".into(), job.batch_invariant.into());
    table.insert("dtype".into(), format!("{:?}", job.model.dtype).into());
    table.insert("fp8".into(), job.model.fp8.into());
    table.insert("slots".into(), i64::from(job.sampler.slots).into());
    table.insert("tokens".into(), i64::from(job.sampler.tokens).into());
    table.insert("parallel".into(), Value::Table(written(&job.parallel)));
    table.insert("stage".into(), Value::Table(stage.to_table()));
    let read = data
        .iter()
        .filter_map(|name| Some((name.clone(), job.data.get(name)?)));
    let read = read.map(|(name, source)| {
        let mut table = written(source);
        table.remove("path");
        (name, Value::Table(table))
    });
    table.insert("data".into(), Value::Table(read.collect()));
    // An evaluation's draws depend on the position of the first evaluation of its data set.
    let place = |eval: &Eval| {
        job.evaluations()
            .position(|other| other.data == eval.data)
            .unwrap_or(0) as i64
    };
    let evals = evals.iter().map(|eval| {
        let mut table = written(*eval);
        table.insert("place".into(), place(eval).into());
        Value::Table(table)
    });
    table.insert("eval".into(), evals.collect::<Vec<_>>().into());
    table.insert(
        "judge".into(),
        judges
            .iter()
            .map(|reward| Value::Table(written(reward)))
            .collect::<Vec<_>>()
            .into(),
    );
    table.to_string()
}
