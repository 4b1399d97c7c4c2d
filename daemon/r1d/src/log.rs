//! The daemon's own log: lines on standard error.

use r1d_job::DaemonConfig;
use r1d_job::daemon::LogFormat;
use tracing_subscriber::EnvFilter;

/// Overrides the configuration's level: `debug`, or per module as in `info,r1d::actors=debug`.
const LEVEL_VARIABLE: &str = "R1D_LOG";

/// Panics become lines too: an actor that panicked is recreated, and its cause must not be lost between other programs' output.
pub fn init(config: &DaemonConfig) {
    let filter = EnvFilter::try_from_env(LEVEL_VARIABLE)
        .or_else(|_| EnvFilter::try_new(&config.log_level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().init(),
    }
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("panic: {panic}");
        default(panic);
    }));
}
