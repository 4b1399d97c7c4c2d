//! Tables of settings: what keys they have, and how any of them is checked, read and written.
//!
//! | module | what it holds |
//! |---|---|
//! | [`keys`] | what is known of a table's keys: type, default, unit, meaning |
//! | [`kinds`] | the kinds of value that keys take, as a field's attribute names them |
//! | [`document`] | a parsed text that knows its lines |
//! | [`check`] | a document against its keys: unknown keys, wrong types, ranges; the defaults filled in |
//! | [`value`], [`plain`] | … the value of a key that is no table |
//! | [`unknown`] | … a key that its table does not have |
//! | [`setting`] | the types that a field may have |
//! | [`together`] | a field of which several keys decide |
//! | [`json`] | a field that is handed on as JSON |
//! | [`fields`] | reading: a checked table, by its keys |
//! | [`write`](mod@write) | a table as text, in the order of its keys |
//!
//! A table is a struct that derives [`Keys`], [`Read`] and [`Write`]; the crate `r1d-job-macros`
//! says what its fields may say.

pub mod check;
pub mod document;
pub(crate) mod fields;
pub(crate) mod json;
pub mod keys;
pub(crate) mod kinds;
pub(crate) mod plain;
pub(crate) mod setting;
pub(crate) mod together;
mod unknown;
mod value;
pub mod write;

pub(crate) use fields::{Fields, Read, Setting, absolute};
pub use keys::{Default, Key, Keys, Kind, Table, Tabled};
pub(crate) use write::{Write, put};
