//! Upper limits of what a job may ask for. No setting alone, and no product of settings, brings
//! down the daemon that takes it in: each limit is far above what the papers used, and what it lets
//! through fits into a server's memory.

/// Bytes of a job file.
pub const JOB_MAX_BYTES: usize = 1 << 20;
/// Bytes of one string in a job file: a path's limit on Linux.
pub const TEXT_MAX_BYTES: usize = 4 << 10;
/// Strings of one list.
pub const TEXTS_MAX: usize = 256;
/// Tables of one `[[…]]`: stages, rewards of a stage, evaluations.
pub const TABLES_MAX: usize = 64;
/// Tables of one `[….NAME]`: data sets, models.
pub const NAMED_MAX: usize = 256;

/// Rows of one step: prompts, sequences, pairs. R1 used 512.
pub const STEP_MAX_ROWS: u32 = 1 << 16;
/// Completions of one prompt. R1 used 16, and 64 in evaluations.
pub const PROMPT_MAX_COMPLETIONS: u32 = 1 << 14;
/// Tokens of one sequence, which is more than the positions of any model that r1d reads.
pub const SEQUENCE_MAX_TOKENS: u32 = 1 << 20;
/// Tokens of one micro-batch.
pub const MICRO_BATCH_MAX_TOKENS: u32 = 1 << 24;
/// Steps of a stage: one each millisecond for fifty days.
pub const STAGE_MAX_STEPS: u64 = 1 << 32;
/// Passes over a data set.
pub const STAGE_MAX_EPOCHS: f64 = 1e6;
/// Passes over a step's completions.
pub const STEP_MAX_PASSES: u32 = 1 << 10;
/// Rounds of further prompts in a step.
pub const STEP_MAX_ROUNDS: u32 = 1 << 6;
/// Completions of one step, all prompts together: 128 times R1's 8,192.
pub const STEP_MAX_COMPLETIONS: u64 = 1 << 20;
/// Tokens of one step: R1's 8,192 completions of 65,536 tokens are half of it. The daemon holds
/// about 8 bytes of each, and a mask.
pub const STEP_MAX_TOKENS: u64 = 1 << 30;
/// Completions of one evaluation: 2,000 rows with 512 completions each.
pub const EVALUATION_MAX_COMPLETIONS: u64 = 1 << 20;
/// Highest sampling temperature. Above it, every id is as likely as any other.
pub const TEMPERATURE_MAX: f64 = 1e3;
/// Lowest sampling temperature other than 0. A lower one is 0 in the sampler's float32, or makes
/// logits infinite there.
pub const TEMPERATURE_MIN: f64 = 1e-4;
/// Largest absolute value of a number in a job file; sums and products of a few of them with what a
/// worker computes still fit into float32.
pub const NUMBER_MAX: f64 = 1e30;
/// Smallest absolute value of a number in a job file other than 0: a smaller one would be 0 in a
/// worker's float32.
pub const NUMBER_MIN: f64 = 1e-37;
