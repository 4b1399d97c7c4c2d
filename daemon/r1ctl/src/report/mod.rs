//! `r1ctl report`: the story of a job as a page for a browser and as markdown.
//!
//! Every statement is computed from what the job recorded; text of models and data sets is escaped.
//!
//! | module | what it holds |
//! |---|---|
//! | [`gather`] | the data of a report, from the daemon and the job's directory |
//! | [`figures`] | its tables: cost, evaluations, verdicts |
//! | [`words`] | the summary in sentences |
//! | [`panels`], [`chart`], [`graph`] | the choice of curves; lines and stages as SVG |
//! | [`escape`] | text of others in both documents |
//! | [`html`], [`markdown`] | the two documents |

mod chart;
mod escape;
mod figures;
mod gather;
mod graph;
mod html;
mod markdown;
mod panels;
mod words;

pub(crate) use gather::{Run, SAMPLED, SAMPLES_MAX, gather, left_samples, left_status};

use crate::error::Error;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The files written.
#[derive(Debug, Serialize)]
pub(crate) struct Written {
    pub html: PathBuf,
    pub markdown: PathBuf,
}

/// Writes `report.html` and `report.md` into `to`, which is created.
pub(crate) fn write(run: &Run, to: &Path) -> Result<Written, Error> {
    let put = |name: &str, text: String| -> Result<PathBuf, Error> {
        let path = to.join(name);
        std::fs::write(&path, text).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    };
    std::fs::create_dir_all(to).map_err(|source| Error::File {
        path: to.into(),
        source,
    })?;
    Ok(Written {
        html: put("report.html", html::page(run))?,
        markdown: put("report.md", markdown::page(run))?,
    })
}
