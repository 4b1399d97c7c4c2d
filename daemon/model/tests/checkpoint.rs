//! Reads and writes model directories: they keep the same bits, and errors say clearly what is
//! wrong with them.

mod fixture;

use fixture::{ALL, difference, dir, forward_logits, load, sequence};
use r1d_model::{CausalLm, Forward, ModelError, checkpoint};
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tempfile::{TempDir, tempdir};

fn copied(name: &str) -> TempDir {
    let copy = tempdir().unwrap();
    for entry in fs::read_dir(dir(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

fn refusal(dir: &Path) -> String {
    CausalLm::load(dir, Device::Cpu, Kind::Float)
        .err()
        .expect("the directory must be refused")
        .to_string()
}

fn assert_same_bits(a: &CausalLm, b: &CausalLm) {
    let all = |m: &CausalLm| [m.parameters(), m.buffers()].concat_names();
    for ((name, a), (other, b)) in all(a).iter().zip(all(b)) {
        assert_eq!(*name, other);
        assert_eq!((a.kind(), a.size()), (b.kind(), b.size()), "{name}");
        assert!(a.equal(&b), "{name}");
    }
}

trait ConcatNames {
    fn concat_names(self) -> Vec<(String, Tensor)>;
}

impl ConcatNames for [Vec<(String, Tensor)>; 2] {
    fn concat_names(self) -> Vec<(String, Tensor)> {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn saving_and_loading_gives_the_same_bits_in_one_file_or_many() {
    for name in ALL {
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            let model = load(name, kind);
            for shard_bytes in [u64::MAX, 50_000, 1] {
                let saved = tempdir().unwrap();
                model.save(saved.path(), shard_bytes).unwrap();
                assert_eq!(
                    saved.path().join("model.safetensors").exists(),
                    shard_bytes == u64::MAX
                );
                assert_same_bits(
                    &model,
                    &CausalLm::load(saved.path(), Device::Cpu, kind).unwrap(),
                );
            }
        }
    }
}

#[test]
fn saved_float32_files_hold_the_originals_tensors() {
    for name in ["deepseek-v3-yarn", "qwen2"] {
        let saved = tempdir().unwrap();
        load(name, Kind::Float)
            .save(saved.path(), u64::MAX)
            .unwrap();
        let read = |dir: &Path| {
            checkpoint::load_tensors(&dir.join("model.safetensors"), Device::Cpu).unwrap()
        };
        let (original, found) = (read(&dir(name)), read(saved.path()));
        assert_eq!(original.len(), found.len());
        for (name, tensor) in original {
            let found = &found.iter().find(|f| f.0 == name).unwrap().1;
            assert!(tensor.equal(found), "{name}");
        }
    }
}

#[test]
fn a_deep_copy_is_its_own_storage() {
    let model = load("deepseek-v3-yarn", Kind::Float);
    let copy = model.deep_copy().unwrap();
    assert_same_bits(&model, &copy);
    let _ = tch::no_grad(|| model.parameters()[0].1.shallow_clone().fill_(0.5));
    assert!(difference(&model.parameters()[0].1, &copy.parameters()[0].1) > 0.0);
    copy.copy_from(&model).unwrap();
    assert_same_bits(&model, &copy);
    assert!(copy.copy_from(&load("qwen2", Kind::Float)).is_err());
}

#[test]
fn initial_weights_are_a_function_of_seed_and_config() {
    let config = fs::read_to_string(dir("deepseek-v3-yarn").join("config.json")).unwrap();
    let init = |seed| CausalLm::init(&config, seed, Device::Cpu, Kind::Float).unwrap();
    assert_same_bits(&init(5), &init(5));
    assert!(difference(&init(5).parameters()[0].1, &init(6).parameters()[0].1) > 0.0);
    for (name, tensor) in init(5).parameters() {
        let deviation = f64::try_from(tensor.to_kind(Kind::Double).std(true)).unwrap();
        let expected = if name.contains("norm") { 0.0 } else { 0.02 };
        assert!((deviation - expected).abs() < 0.002, "{name}: {deviation}");
    }
    assert!(
        forward_logits(&init(5), &sequence(&[1, 2, 3]), &Forward::default())
            .isfinite()
            .all()
            .int64_value(&[])
            == 1
    );
}

#[test]
fn damaged_directories_are_refused_by_name() {
    let sharded = copied("deepseek-v3-plain");
    fs::remove_file(sharded.path().join("model-00002-of-00004.safetensors")).unwrap();
    assert!(
        refusal(sharded.path()).contains("model-00002-of-00004.safetensors"),
        "{}",
        refusal(sharded.path())
    );

    let cut = copied("qwen2");
    let file = cut.path().join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    for length in [0, 5, 200, bytes.len() - 1] {
        fs::write(&file, &bytes[..length]).unwrap();
        assert!(
            refusal(cut.path()).contains("model.safetensors: ")
                && refusal(cut.path()).contains("cut off"),
            "{}",
            refusal(cut.path())
        );
    }
    fs::remove_file(&file).unwrap();
    assert!(refusal(cut.path()).contains("no model.safetensors"));
    fs::remove_file(cut.path().join("config.json")).unwrap();
    assert!(refusal(cut.path()).contains("config.json"));
}

#[test]
fn tensors_that_do_not_fit_the_config_are_refused_by_name() {
    type Tensors = Vec<(String, Tensor)>;
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let copy = copied("qwen2");
        let file = copy.path().join("model.safetensors");
        let mut tensors = checkpoint::load_tensors(&file, Device::Cpu).unwrap();
        change(&mut tensors);
        checkpoint::save_tensors(&file, &tensors).unwrap();
        refusal(copy.path())
    };
    let missing =
        changed(&|tensors| tensors.retain(|t| t.0 != "model.layers.1.mlp.up_proj.weight"));
    assert!(
        missing.contains("\"model.layers.1.mlp.up_proj.weight\""),
        "{missing}"
    );
    let extra = changed(&|tensors| {
        tensors.push((
            "model.layers.3.mlp.up_proj.weight".into(),
            Tensor::from(1f32),
        ))
    });
    assert!(
        extra.contains("1 tensors") && extra.contains("\"model.layers.3.mlp.up_proj.weight\""),
        "{extra}"
    );
    let reshaped = changed(&|tensors| {
        let tensor = &mut tensors
            .iter_mut()
            .find(|t| t.0 == "model.layers.0.self_attn.k_proj.weight")
            .unwrap()
            .1;
        *tensor = tensor.reshape([48, 24]);
    });
    for part in [
        "model.safetensors",
        "\"model.layers.0.self_attn.k_proj.weight\"",
        "[48, 24]",
        "[24, 48]",
    ] {
        assert!(reshaped.contains(part), "{reshaped}");
    }
    let whole_numbers = changed(&|tensors| tensors[0].1 = tensors[0].1.to_kind(Kind::Int64));
    assert!(
        whole_numbers.contains("I64") && whole_numbers.contains("BF16"),
        "{whole_numbers}"
    );
}

#[test]
fn a_directory_appears_whole_or_not_at_all() {
    let root = tempdir().unwrap();
    let target = root.path().join("step-10");
    let names = || {
        let mut names: Vec<_> = fs::read_dir(root.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let failed = checkpoint::write_directory_atomically(&target, |dir| {
        fs::write(dir.join("half"), "x").unwrap();
        Err(ModelError::Input("planted".into()))
    });
    assert_eq!(failed.unwrap_err().to_string(), "planted");
    assert!(names().is_empty());

    // Files that a killed process left behind do not get into the next try.
    fs::create_dir(root.path().join(".step-10.partial")).unwrap();
    fs::write(root.path().join(".step-10.partial/stale"), "x").unwrap();
    let manifest = checkpoint::write_directory_atomically(&target, |dir| {
        fs::create_dir(dir.join("reference")).unwrap();
        fs::write(dir.join("reference/config.json"), "{}").unwrap();
        fs::write(dir.join("weights"), "abc").unwrap();
        Ok::<_, ModelError>(())
    })
    .unwrap();
    assert_eq!(names(), ["step-10"]);
    assert_eq!(
        manifest
            .files
            .iter()
            .map(|f| (&f.path[..], f.bytes))
            .collect::<Vec<_>>(),
        [("reference/config.json", 2), ("weights", 3)]
    );
    assert_eq!(
        manifest.files[1].sha256,
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_eq!(checkpoint::verify_manifest(&target).unwrap(), manifest);
    let again = checkpoint::write_directory_atomically(&target, |_| Ok::<_, ModelError>(()));
    assert!(again.unwrap_err().to_string().contains("exists already"));

    let damage = |work: &dyn Fn()| {
        work();
        checkpoint::verify_manifest(&target)
            .unwrap_err()
            .to_string()
    };
    assert!(
        damage(&|| fs::write(target.join("weights"), "abd").unwrap()).contains("weights: SHA-256")
    );
    assert!(
        damage(&|| fs::write(target.join("weights"), "ab").unwrap()).contains("weights: 2 bytes")
    );
    assert!(
        damage(&|| fs::remove_file(target.join("weights")).unwrap())
            .contains("weights: the manifest lists it")
    );
    fs::write(target.join("weights"), "abc").unwrap();
    assert!(
        damage(&|| fs::write(target.join("reference/more"), "").unwrap())
            .contains("more: the manifest does not list it")
    );
}

#[test]
fn named_tensors_of_any_dtype_come_back() {
    let root = tempdir().unwrap();
    let file = root.path().join("trainer.safetensors");
    let tensors = vec![
        ("step".to_owned(), Tensor::from(7i64)),
        (
            "exp_avg.a".to_owned(),
            Tensor::from_slice(&[1f32, -2., f32::MIN_POSITIVE / 4.]),
        ),
        (
            "half".to_owned(),
            Tensor::from_slice(&[1f32, 3.]).to_kind(Kind::BFloat16),
        ),
        (
            "transposed".to_owned(),
            Tensor::from_slice(&[1f64, 2., 3., 4., 5., 6.])
                .view([2, 3])
                .tr(),
        ),
        (
            "empty".to_owned(),
            Tensor::zeros([0, 3], tch::kind::FLOAT_CPU),
        ),
    ];
    checkpoint::save_tensors(&file, &tensors).unwrap();
    let found = checkpoint::load_tensors(&file, Device::Cpu).unwrap();
    assert_eq!(found.len(), tensors.len());
    for (name, tensor) in tensors {
        let found = &found.iter().find(|f| f.0 == name).unwrap().1;
        assert_eq!(
            (found.kind(), found.size()),
            (tensor.kind(), tensor.size()),
            "{name}"
        );
        assert!(found.equal(&tensor), "{name}");
    }
}

#[test]
fn what_stands_beside_the_weights_is_carried() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    for name in [
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "model.safetensors",
    ] {
        fs::write(from.path().join(name), name).unwrap();
    }
    checkpoint::carry_files(from.path(), to.path()).unwrap();
    let mut names: Vec<_> = fs::read_dir(to.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "chat_template.jinja",
            "generation_config.json",
            "tokenizer.json"
        ]
    );

    // The template for rows with tools has its own folder.
    let tools = "additional_chat_templates/tool_use.jinja";
    fs::create_dir(from.path().join("additional_chat_templates")).unwrap();
    fs::write(from.path().join(tools), "tools").unwrap();
    fs::write(from.path().join("additional_chat_templates/notes.txt"), "").unwrap();
    let again = tempdir().unwrap();
    let whole = again.path().join("checkpoint");
    checkpoint::write_directory_atomically(&whole, |dir| checkpoint::carry_files(from.path(), dir))
        .unwrap();
    assert_eq!(fs::read_to_string(whole.join(tools)).unwrap(), "tools");
    assert!(!whole.join("additional_chat_templates/notes.txt").exists());
    assert!(
        checkpoint::verify_manifest(&whole)
            .unwrap()
            .files
            .iter()
            .any(|file| file.path == tools)
    );
}

/// The umask decides who may read a job's files, whatever writes them and whatever they are copied
/// from.
#[test]
fn files_have_the_mode_that_the_umask_gives() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let plain = to.path().join("plain");
    fs::write(&plain, "").unwrap();
    fs::write(from.path().join("tokenizer.json"), "{}").unwrap();
    for private in [0o600, 0o400, 0o777] {
        let source = from.path().join("tokenizer.json");
        fs::set_permissions(&source, fs::Permissions::from_mode(private)).unwrap();
        checkpoint::carry_files(from.path(), to.path()).unwrap();
        assert_eq!(
            mode(&to.path().join("tokenizer.json")),
            mode(&plain),
            "copied from {private:o}"
        );
        fs::remove_file(to.path().join("tokenizer.json")).unwrap();
    }
    let saved = to.path().join("saved");
    checkpoint::write_directory_atomically(&saved, |dir| {
        checkpoint::save_tensors(
            &dir.join("trainer.safetensors"),
            &[("step".to_owned(), Tensor::from(7i64))],
        )?;
        load("qwen2", Kind::Float).save(dir, 50_000)
    })
    .unwrap();
    for entry in fs::read_dir(&saved).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), mode(&plain), "{}", path.display());
    }
}

/// A pipe would wait for a writer for ever, and a device has no end.
#[test]
fn files_of_a_model_that_are_no_regular_files_are_refused_by_their_path() {
    let fixture = dir("qwen2");
    let elsewhere = tempdir().unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(elsewhere.path().join("fifo"))
        .status()
        .unwrap();
    assert!(made.success());
    for what in [
        &elsewhere.path().join("fifo"),
        elsewhere.path(),
        "/dev/zero".as_ref(),
        "/proc/self/status".as_ref(),
    ] {
        for file in [
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
        ] {
            let model = tempdir().unwrap();
            for name in ["config.json", "model.safetensors"] {
                fs::copy(fixture.join(name), model.path().join(name)).unwrap();
            }
            // The single file would take precedence over an index.
            let _ = fs::remove_file(model.path().join(if file == "config.json" {
                file
            } else {
                "model.safetensors"
            }));
            std::os::unix::fs::symlink(what, model.path().join(file)).unwrap();
            let error = checkpoint::inspect(model.path(), true)
                .map(drop)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(file) && error.contains("only a regular file is read"),
                "{}: {error}",
                what.display()
            );
        }
        // The same holds for the files of an adapter.
        let adapter = tempdir().unwrap();
        std::os::unix::fs::symlink(what, adapter.path().join("adapter_config.json")).unwrap();
        let mut policy = CausalLm::load(&fixture, Device::Cpu, Kind::Float).unwrap();
        let error = policy
            .load_adapter(adapter.path())
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("adapter_config.json") && error.contains("only a regular file is read"),
            "{error}"
        );
    }
}

/// Ranks that share a tensor save what each has. Whoever has another part of it, or all, finds it.
#[test]
fn parts_of_tensors_become_other_parts() {
    let dir = tempdir().unwrap();
    let numbers = Tensor::arange(24, (Kind::Float, Device::Cpu));
    let cut = |from: i64, length: i64| numbers.narrow(0, from, length);
    let name = |from: i64| checkpoint::part_name("exp_avg.a", from);
    let count = || ("steps".to_owned(), Tensor::from_slice(&[3f32]));
    let files = [dir.path().join("0"), dir.path().join("1")];
    let saved = [
        vec![(name(0), cut(0, 10)), count()],
        vec![
            (name(10), cut(10, 14)),
            count(),
            ("b".to_owned(), cut(1, 4)),
        ],
    ];
    for (file, tensors) in files.iter().zip(&saved) {
        checkpoint::save_tensors(file, tensors).unwrap();
    }
    let files: Vec<&Path> = files.iter().map(|file| file.as_path()).collect();
    let options = (Kind::Float, Device::Cpu);
    let whole = ("exp_avg.a".to_owned(), Tensor::zeros([4, 6], options));
    let part = (name(7), Tensor::zeros([9], options));
    let step = ("steps".to_owned(), Tensor::zeros([1], options));
    let live = [whole, part, step];
    checkpoint::restore_tensors(&files, &live).unwrap();
    assert_eq!(live[0].1.view([-1]), numbers);
    assert_eq!(live[1].1, cut(7, 9));
    assert_eq!(live[2].1, Tensor::from_slice(&[3f32]));

    // A whole tensor's parts, and what is missing.
    let part = (checkpoint::part_name("b", 2), Tensor::zeros([2], options));
    checkpoint::restore_tensors(&files[1..], std::slice::from_ref(&part)).unwrap();
    assert_eq!(part.1, cut(3, 2));
    let refused = |files: &[&Path], of: (&str, Tensor)| {
        let live = [
            ("steps".to_owned(), Tensor::zeros([1], options)),
            (of.0.to_owned(), of.1),
        ];
        let error = checkpoint::restore_tensors(files, &live).unwrap_err();
        assert_eq!(
            live[0].1,
            Tensor::zeros([1], options),
            "something was written"
        );
        error.to_string()
    };
    let whole = || ("exp_avg.a", Tensor::zeros([4, 6], options));
    assert!(refused(&files[..1], whole()).contains("element 10 of tensor `exp_avg.a` is not"));
    let narrow = Tensor::zeros([4, 6], (Kind::BFloat16, Device::Cpu));
    assert!(refused(&files, ("exp_avg.a", narrow)).contains("F32"));
    let shape = Tensor::zeros([2, 2], options);
    assert!(refused(&files, ("b", shape)).contains("tensor `b` is F32 [4]"));
    assert!(refused(&files, ("c", Tensor::zeros([1], options))).contains("`c` is not there"));
}
