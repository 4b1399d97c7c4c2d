//! The host's side of `reward-sdk/wit/reward.wit`, generated.

wasmtime::component::bindgen!({ path: "../../reward-sdk/wit", world: "reward" });

pub(crate) mod group {
    wasmtime::component::bindgen!({
        path: "../../reward-sdk/wit",
        world: "group-reward",
        with: { "r1d:reward/types@1.0.0": crate::bindings::r1d::reward::types },
    });
}

pub(crate) mod judged {
    wasmtime::component::bindgen!({
        path: "../../reward-sdk/wit",
        world: "judged-reward",
        with: { "r1d:reward/types@1.0.0": crate::bindings::r1d::reward::types },
    });
}
