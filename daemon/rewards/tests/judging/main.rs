//! What plugins are given and answer: those that are shipped, those that attack, and the templates.
//! One program, so that the runtime is linked once.

#[path = "../guests/mod.rs"]
mod guests;

mod attacks;
mod code;
mod loading;
mod plugins;
mod poisoned;
mod refusals;
mod templates;
