//! What a worker needs of the machine: its executable, libtorch, its device. It is tried before the
//! daemon takes jobs, so that no job fails for what the daemon lacks.

use crate::actors::jobs::{DeviceUsable, Jobs};
use crate::actors::supervise::Supervised;
use crate::actors::worker::{EXIT_NO_LIBRARY, Recipe, WorkerError};
use crate::board::Board;
use std::process::{Output, Stdio};
use std::time::Duration;

/// For a worker to open its device; the first one after a boot reads gigabytes of libraries.
const PROBE_MAX: Duration = Duration::from_secs(300);
/// Between two looks at a device that could not be used: at first, and at most.
const PROBE_AGAIN: Duration = Duration::from_secs(1);
const PROBE_AGAIN_MAX: Duration = Duration::from_secs(30);
/// A device that was usable for so long has been mended.
const OF_USE_AFTER: Duration = Duration::from_secs(60);

/// Nothing can run on this machine until somebody has changed its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("{0}")]
    Libraries(String),
}

/// Tries each device, all at once, and marks those on the board that cannot be used.
pub async fn try_devices(recipes: &[Recipe], board: &Board) -> Result<(), SetupError> {
    let found = futures_util::future::join_all(recipes.iter().map(probe)).await;
    for (recipe, problem) in recipes.iter().zip(found) {
        let problem = problem?;
        if let Some(problem) = &problem {
            tracing::error!(
                "device {} gets no jobs until this is mended: {problem}",
                recipe.device
            );
        }
        board.found(&recipe.device, problem);
    }
    Ok(())
}

/// Tries devices again that cannot be used; one that can be by then gets the next job. None waits
/// for another's answer.
pub async fn keep_trying(recipes: Vec<Recipe>, board: Board, jobs: Supervised<Jobs>) {
    futures_util::future::join_all(
        recipes
            .iter()
            .map(|recipe| keep_trying_one(recipe, &board, &jobs)),
    )
    .await;
}

/// Pauses grow until the device has been of use for a while: one that opens and then does nothing
/// is not given a job every second.
async fn keep_trying_one(recipe: &Recipe, board: &Board, jobs: &Supervised<Jobs>) {
    let mut pause = PROBE_AGAIN;
    loop {
        if tokio::time::timeout(OF_USE_AFTER, board.until_unusable(&recipe.device))
            .await
            .is_err()
        {
            pause = PROBE_AGAIN;
            board.until_unusable(&recipe.device).await;
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PROBE_AGAIN_MAX);
        let problem = probe(recipe)
            .await
            .unwrap_or_else(|problem| Some(problem.to_string()));
        let is_usable = problem.is_none();
        board.found(&recipe.device, problem);
        if is_usable {
            tracing::info!("device {} can be used", recipe.device);
            // The queue is being made anew: it looks by itself.
            let _ = jobs.ask("the queue", DeviceUsable).await;
        }
    }
}

/// What keeps the device from being used, if anything does.
async fn probe(recipe: &Recipe) -> Result<Option<String>, SetupError> {
    let failed = |source| WorkerError::Start {
        executable: recipe.executable.clone(),
        source,
    };
    let mut command = recipe.command().map_err(failed)?;
    command.args(["probe", "--device", &recipe.device]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let ended = command.spawn().map_err(failed)?.wait_with_output();
    match tokio::time::timeout(PROBE_MAX, ended).await {
        Ok(ended) => judged(recipe, &ended.map_err(failed)?),
        Err(_) => Ok(Some(format!(
            "a worker does not open it within {} s",
            PROBE_MAX.as_secs()
        ))),
    }
}

fn judged(recipe: &Recipe, ended: &Output) -> Result<Option<String>, SetupError> {
    if ended.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&ended.stderr);
    let said = text
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing")
        .trim();
    match (
        ended.status.code(),
        recipe.unusable(ended.status.code(), said),
    ) {
        (Some(EXIT_NO_LIBRARY), Some(problem)) => Err(SetupError::Libraries(problem)),
        (_, Some(problem)) => Ok(Some(problem)),
        (_, None) => Ok(Some(format!(
            "a worker cannot start ({}): {said}",
            ended.status
        ))),
    }
}
