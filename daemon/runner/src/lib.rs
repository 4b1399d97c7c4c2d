//! Decides what a job does next, as pure functions of (state, event, time) → (state, commands,
//! reason).
//!
//! [`Machine`](machine::Machine) is the state machine of one attempt. The node's run carries out
//! the [`Command`]s (a request to the worker, rows to read, completions to score, records to keep)
//! and hands back what came of them as [`Event`]s. The machine holds no socket, file, clock or
//! random number, so a test can feed it any order of events and any crash.
//!
//! ```text
//! worker starts ─▶ open ─▶ begin stage ─▶ restore checkpoint ─▶ rebuild committed steps ─┐
//!                   ▲                                                                    ▼
//!                   │                    ┌──────────────▶ boundary: checkpoint? evaluation? end?
//!                   │  sync reference?   │                                      │
//!                   │        ▲           │                                      ▼
//!                   │        └──────── commit ◀──────────────────────────────  step
//!              finish stage ◀───────────────────────────────────────────────────┘
//!                   └─▶ export ─▶ end
//!
//! step:  grpo, ppo                          sample ─▶ score ─▶ seal ─▶ train
//!        rejection-sampling                 sample ─▶ score ─▶ seal
//!        pretrain, sft, dpo, reward-model   batch ─▶ train
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`machine`] | an attempt: stages, steps, and what lies between them |
//! | [`step`], [`rollout_step`], [`batch_step`] | one step of a stage, of either kind |
//! | [`flow`], [`metrics`] | what follows from an event; metrics of a step |
//! | [`select`] | which completions rejection sampling keeps |
//! | [`gather`] | completions sampled by the worker and scored by the rewards, as they come |
//! | [`judge_queue`] | what judged rewards ask reward models and judges |
//! | [`reward_model_eval`] | whether a finished reward model separates good from bad |
//! | [`rebuild`] | committed steps again, from the journal (`STEP-1`) |
//! | [`evaluation`], [`scores`], [`answer`] | held-out accuracy: pass@k, cons@k |
//! | [`judge`], [`advantages`] | verdicts → rewards → group-relative advantages |
//! | `pending_checkpoint` | the checkpoint that is written while steps go on |
//! | [`message`], [`plan`], [`record`] | events and commands of the machine; what it knows from the start; what is durable |
//! | `trace` | how long the parts of a step took |
//! | [`wait`] | what each part waits for, since when, until when |
//! | [`life`] | a job's life on a device: attempt after attempt, until it ends or gives the device up |
//! | [`schedule`] | the queue: which job gets which device, and which device gets jobs |
//! | [`restart`] | whether a job whose attempt failed is taken up again |
//! | [`pace`] | time left |
//!
//! `STEP-1` and `STEP-2` rest on two habits: everything that trains is sealed in the journal before
//! it trains, and every choice is a function of the plan and of what is recorded, never of time or
//! order of arrival.

#![warn(clippy::too_many_lines)]

pub mod advantages;
pub mod answer;
pub mod batch_step;
pub mod evaluation;
pub mod flow;
pub mod gather;
pub mod interval;
pub mod judge;
pub mod judge_queue;
pub mod life;
pub mod machine;
pub mod message;
pub mod metrics;
pub mod pace;
mod pending_checkpoint;
pub mod plan;
pub mod rebuild;
pub mod record;
pub mod restart;
pub mod reward_model_eval;
pub mod rollout_step;
pub mod schedule;
pub mod scores;
pub mod select;
pub mod step;
mod trace;
pub mod wait;

pub use machine::Machine;
pub use message::{
    Answers, Batch, Command, End, Event, JudgeReply, JudgeRequest, Keep, Prompt, Questions,
    Recalled, ScoreItem, Source, Store,
};
pub use plan::{DeclaredScores, EvalInputs, Limits, ModelPlan, Plan, StageInputs};
pub use record::{Record, StageRecord};
