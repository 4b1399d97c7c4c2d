//! The host's side of `reward-sdk/wit/reward.wit`, generated.

wasmtime::component::bindgen!({ path: "../../reward-sdk/wit", world: "reward" });
