//! What each command asks and prints.

use crate::cli::{Cli, Command, Global, Output, Patience};
use crate::client::Client;
use crate::error::{Ended, Error};
use crate::print::{self, Printer};
use crate::socket::candidates;
use crate::watch::{Style, Watch};
use crate::{explain, job_file, model, pages, show};
use r1d_proto::control::{Request, Response};
use r1d_proto::world::SharedClock;
use std::time::Duration;

pub fn run(cli: Cli, printer: &Printer, clock: SharedClock) -> Result<Ended, Error> {
    let Cli { global, command } = cli;
    // What needs no daemon goes on below; the rest asks one.
    match command {
        Command::Explain { key } => explain::run(key.as_deref(), global.output),
        Command::Model(command) => model::run(command, global.output),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { dir } => pages::man(dir.as_deref()),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
            runtime.block_on(Session { global, printer, clock }.run(command))
        }
    }
}

/// One command that asks the daemon.
struct Session<'a> {
    global: Global,
    printer: &'a Printer,
    clock: SharedClock,
}

impl Session<'_> {
    async fn run(&self, command: Command) -> Result<Ended, Error> {
        let look = self.printer.stdout;
        match command {
            Command::Submit { file, wait, priority, patience } => {
                // A job file that cannot be right is told without a daemon.
                let job = job_file::read(&file)?;
                return self.submit(Request::Submit { job, priority }, wait, patience).await;
            }
            Command::Status { job, watch: true, patience } => {
                let style = Style::of_status(self.global.output);
                return self.watch(&self.client().await?, &job, style, patience).await;
            }
            Command::Logs { job, follow } => return self.logs(job, follow).await,
            Command::Plan { file } => {
                let job = job_file::read(&file)?;
                match self.ask(Request::Plan { job }, "plan").await? {
                    Response::Plan(plan) => self.print(&plan, || show::plan(&plan, look))?,
                    other => return Err(self.client().await?.unexpected("plan", &other)),
                }
            }
            command => todo!("{command:?}"),
        }
        Ok(Ended::Ok)
    }
}
