//! The sources of reward-sdk and the templates, put in by `build.rs`.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
