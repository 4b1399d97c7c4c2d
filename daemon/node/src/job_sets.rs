//! The token sets of a job: what its stages and evaluations read, made or found while it is loaded.

use crate::file_hashes::FileHashes;
use crate::reading::{Reading, Unwanted};
use crate::tokenizers::Tokenizers;
use r1d_data::{DataError, dataset, is_absent};
use r1d_ingest::preferences::{Reading as PreferenceReading, Whole};
use r1d_ingest::{
    Contents, GetError, Lengths, MakeError, MakeStatus, Order, Preferences, Prompts, Rendering,
    Request, Rows, RowsRef, SetError, Supervision, TaughtRef, TokenSet, TokenSets,
};
use r1d_job::{
    DataSource, Dpo, Job, Pretrain, RewardLoss, RewardModel, Sft, Stage, TemplateSource,
};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder of token sets, the hashes that find a set there, and the tokenizers that jobs share.
/// Clones share all.
#[derive(Clone)]
pub(crate) struct Ingest {
    pub sets: TokenSets,
    pub hashes: FileHashes,
    pub tokenizers: Tokenizers,
}

/// Why a job's token sets cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetsError {
    #[error(transparent)]
    Get(#[from] GetError),
    #[error(transparent)]
    Open(#[from] SetError),
    #[error(transparent)]
    Data(#[from] DataError),
    /// The data set that a stage has made is not to be had.
    #[error(transparent)]
    Made(Box<dyn Error + Send + Sync>),
    #[error("data.{name} is not in the job")]
    NoData { name: String },
    #[error("model {model} is not in the job")]
    NoModel { model: usize },
    #[error(transparent)]
    Unwanted(#[from] Unwanted),
}

/// The file of a data set that a stage of the job has made; `None` if no stage has.
pub(crate) type Made<'a> =
    &'a dyn Fn(&str) -> Result<Option<PathBuf>, Box<dyn Error + Send + Sync>>;

impl SetsError {
    /// Whether the daemon's disk or the machine is at fault, not what the job names.
    pub(crate) fn is_the_machines(&self) -> bool {
        matches!(
            self,
            SetsError::Open(_)
                | SetsError::Get(
                    GetError::Folder { .. }
                        | GetError::Make(
                            MakeError::Set(_) | MakeError::Write(_) | MakeError::Lost(_)
                        )
                )
        )
    }
}

/// Finds the hashes of files for one who may leave.
struct Watched<'a> {
    hashes: &'a FileHashes,
    reading: &'a Reading,
}

impl Contents for Watched<'_> {
    fn sha256(&self, path: &Path) -> io::Result<String> {
        let wanted = || self.reading.wanted().map_err(io::Error::other);
        self.hashes.sha256(path, &wanted)
    }
}

/// Gets the token sets of a job, each once.
pub(crate) struct JobSets<'a> {
    job: &'a Job,
    /// The positions of each model of the job.
    positions: Vec<u64>,
    made: Made<'a>,
    ingest: &'a Ingest,
    reading: &'a Reading,
    rows: BTreeMap<String, Rows>,
    /// Prompts by data set, model and template.
    prompts: BTreeMap<(String, usize, TemplateSource), Prompts>,
}

impl<'a> JobSets<'a> {
    pub(crate) fn new(
        job: &'a Job,
        positions: Vec<u64>,
        made: Made<'a>,
        ingest: &'a Ingest,
        reading: &'a Reading,
    ) -> JobSets<'a> {
        JobSets {
            job,
            positions,
            made,
            ingest,
            reading,
            rows: BTreeMap::new(),
            prompts: BTreeMap::new(),
        }
    }

    pub(crate) fn source(&self, name: &str) -> Result<Cow<'a, DataSource>, SetsError> {
        self.job
            .source(name)
            .ok_or_else(|| SetsError::NoData { name: name.into() })
    }

    /// All data sets that were read.
    pub(crate) fn read(&self) -> impl Iterator<Item = &Rows> {
        self.rows.values()
    }

    /// The rows of a data set.
    pub(crate) fn rows(&mut self, name: &str) -> Result<Rows, SetsError> {
        if let Some(rows) = self.rows.get(name) {
            return Ok(rows.clone());
        }
        let source = match self.job.data.get(name) {
            Some(source) => {
                dataset::check_path(source)?;
                source.clone()
            }
            None => {
                let found = (self.made)(name).map_err(SetsError::Made)?;
                let path = found.ok_or_else(|| SetsError::NoData { name: name.into() })?;
                DataSource {
                    path,
                    ..self.source(name)?.into_owned()
                }
            }
        };
        let files = dataset::files(&source)?;
        let set = self.get(&Request::Rows {
            source,
            files: files.clone(),
        })?;
        let rows = Rows::open(set, name, files).map_err(SetsError::Open)?;
        self.rows.insert(name.into(), rows.clone());
        Ok(rows)
    }

    /// The prompts of a data set for a model; a stage's template goes before the data set's.
    pub(crate) fn prompts(
        &mut self,
        name: &str,
        model: usize,
        template: Option<&TemplateSource>,
    ) -> Result<Prompts, SetsError> {
        let key = (name.to_owned(), model, self.template(name, template)?);
        if let Some(prompts) = self.prompts.get(&key) {
            return Ok(prompts.clone());
        }
        let positions = self.positions.get(model).copied();
        let positions = positions.ok_or(SetsError::NoModel { model })?;
        let request = Request::Prompts {
            rows: self.rows_ref(name)?,
            rendering: self.rendering(name, key.2.clone())?,
            tokenizer: self.tokenizer(model)?,
            lengths: Lengths {
                max_prompt_length: self.source(name)?.max_prompt_length,
                positions: Some(positions),
            },
        };
        let prompts = Prompts::open(self.get(&request)?).map_err(SetsError::Open)?;
        self.prompts.insert(key, prompts.clone());
        Ok(prompts)
    }

    /// The packed documents of a pretrain stage.
    pub(crate) fn pretrain(
        &mut self,
        stage: &Stage,
        pretrain: &Pretrain,
        order: Order,
    ) -> Result<Supervision, SetsError> {
        let names: Vec<&str> = stage.data_sets().collect();
        let data = names
            .iter()
            .map(|name| self.rows_ref(name))
            .collect::<Result<_, _>>()?;
        let tokenizer = self.tokenizer(self.job.model_of(stage))?;
        let set = self.get(&Request::Documents { data, tokenizer })?;
        let sizes = (pretrain.rows.batch_size, pretrain.rows.max_length);
        let orders = self.ingest.sets.orders();
        Ok(Supervision::pretrain(
            set,
            &names.join(" + "),
            sizes,
            order,
            orders,
        )?)
    }

    /// The sequences of an sft stage.
    pub(crate) fn sft(
        &mut self,
        stage: &Stage,
        sft: &Sft,
        order: Order,
    ) -> Result<Supervision, SetsError> {
        let taught = |name: &str| -> Result<TaughtRef, SetsError> {
            let template = self.template(name, sft.template.as_ref())?;
            Ok(TaughtRef {
                rows: self.rows_ref(name)?,
                rendering: self.rendering(name, template)?,
                tokenize: self.job.tokenize(stage, sft, name),
                max_prompt_length: self.source(name)?.max_prompt_length,
            })
        };
        let data = stage.data_sets().map(taught).collect::<Result<_, _>>()?;
        let set = self.get(&Request::Sequences {
            data,
            tokenizer: self.tokenizer(self.job.model_of(stage))?,
            max_length: sft.rows.max_length,
        })?;
        let orders = self.ingest.sets.orders();
        let sequences = Supervision::sft(set, sft.rows.batch_size, order, orders);
        sequences.map_err(SetsError::Open)
    }

    /// The pairs of a dpo stage.
    pub(crate) fn dpo(
        &mut self,
        stage: &Stage,
        dpo: &Dpo,
        order: Order,
    ) -> Result<Preferences, SetsError> {
        let reading = PreferenceReading {
            pairs: true,
            max_length: dpo.rows.max_length,
            whole: Whole::Learned(dpo.tokenize),
        };
        let names: Vec<&str> = stage.data_sets().collect();
        self.preferences(&names, stage, (dpo.rows.batch_size, reading), order)
    }

    /// The rows of a reward-model stage, and those that are held out.
    pub(crate) fn reward_model(
        &mut self,
        stage: &Stage,
        settings: &RewardModel,
        order: Order,
    ) -> Result<(Preferences, Option<Preferences>), SetsError> {
        let reading = PreferenceReading {
            pairs: settings.loss != RewardLoss::Pointwise,
            max_length: settings.rows.max_length,
            whole: Whole::Scored,
        };
        let sizes = (settings.rows.batch_size, reading);
        let names: Vec<&str> = stage.data_sets().collect();
        let rows = self.preferences(&names, stage, sizes, order)?;
        let held_out = stage
            .held_out()
            .map(|name| self.preferences(&[name], stage, sizes, order))
            .transpose()?;
        Ok((rows, held_out))
    }

    fn preferences(
        &mut self,
        names: &[&str],
        stage: &Stage,
        (batch_size, reading): (u32, PreferenceReading),
        order: Order,
    ) -> Result<Preferences, SetsError> {
        let read = |name: &&str| -> Result<_, SetsError> {
            let template = self.template(name, None)?;
            Ok((self.rows_ref(name)?, self.rendering(name, template)?))
        };
        let data = names.iter().map(read).collect::<Result<_, _>>()?;
        let set = self.get(&Request::Preferences {
            data,
            tokenizer: self.tokenizer(self.job.model_of(stage))?,
            reading,
        })?;
        let orders = self.ingest.sets.orders();
        let rows = Preferences::open(set, batch_size, order, orders);
        rows.map_err(SetsError::Open)
    }

    fn get(&self, request: &Request) -> Result<Arc<TokenSet>, SetsError> {
        let contents = Watched {
            hashes: &self.ingest.hashes,
            reading: self.reading,
        };
        let doing = match request {
            Request::Rows { .. } => "reading",
            _ => "tokenising",
        };
        let watch = &mut |status: MakeStatus<'_>| self.reading.set(doing, status).is_ok();
        let got = self.ingest.sets.get(request, &contents, watch);
        // Nothing of it is awaited any more.
        self.reading.set(doing, MakeStatus::Waiting)?;
        got.map_err(SetsError::Get)
    }

    fn rows_ref(&mut self, name: &str) -> Result<RowsRef, SetsError> {
        let rows = self.rows(name)?;
        Ok(RowsRef {
            key: *rows.key(),
            name: name.into(),
            files: rows.files().to_vec(),
        })
    }

    fn tokenizer(&self, model: usize) -> Result<PathBuf, SetsError> {
        let weights = self.job.models().nth(model);
        let weights = weights.ok_or(SetsError::NoModel { model })?;
        Ok(weights.tokenizer().into())
    }

    /// The stage's template if it has one, else the data set's.
    fn template(
        &self,
        name: &str,
        stages: Option<&TemplateSource>,
    ) -> Result<TemplateSource, SetsError> {
        let (key, template) = match stages {
            Some(template) => ("stage.template".to_owned(), template.clone()),
            None => {
                let own = self.source(name)?.template.clone();
                (format!("data.{name}.template"), own)
            }
        };
        if let Some(file) = template.file().filter(|file| is_absent(file)) {
            let fix = "write \"r1-zero\", \"chat\", \"plain\" or the path of a jinja file";
            return Err(DataError::Absent {
                key,
                path: file.into(),
                hint: fix.into(),
            }
            .into());
        }
        Ok(template)
    }

    fn rendering(&self, name: &str, template: TemplateSource) -> Result<Rendering, SetsError> {
        let source = self.source(name)?;
        Ok(Rendering {
            template,
            date: self.job.date.clone(),
            chat_template_kwargs: source.chat_template_kwargs.clone(),
            tools: source.tools.clone(),
        })
    }
}
