//! The keys of `job.toml`.

use crate::file::Default::{Required, Unset, Value};
use crate::file::Kind::{
    Bool, Date, Integer, Json, Later, Name, Named, OneOf, Path, Sha256, Tables, Text, Texts,
    Variants, WordOrScore,
};
use crate::file::{Default, Key, Kind, Table};
use crate::limits::{
    MICRO_BATCH_MAX_TOKENS, NUMBER_MAX, PROMPT_MAX_COMPLETIONS, SEQUENCE_MAX_TOKENS,
    STAGE_MAX_EPOCHS, STAGE_MAX_STEPS, STEP_MAX_PASSES, STEP_MAX_ROUNDS, STEP_MAX_ROWS,
    TEMPERATURE_MAX,
};

/// All keys of `job.toml`.
pub(crate) static JOB: &Table = &Table {
    path: "",
    meaning: "One run of the recipe: a model, data, stages in order, and what is kept.",
    groups: &[&[
        key(
            "name",
            Name,
            Required("write name = \"my-job\" at the top of the file"),
            "",
            "What lists and directories call the job.",
        ),
        key(
            "seed",
            Integer {
                min: 0,
                max: i64::MAX,
            },
            Value("42"),
            "",
            "Everything random is a function of it: initial weights, the order of rows, each \
             sampled token, the split into minibatches.",
        ),
        key(
            "priority",
            Integer {
                min: -1000,
                max: 1000,
            },
            Value("0"),
            "",
            "Of the jobs that wait, the one with the highest runs first; jobs of one priority run \
             in the order in which they came.",
        ),
        key(
            "date",
            Date,
            Unset("the day (UTC) on which the job is submitted, which is recorded with it"),
            "",
            "The day that a chat template is told when it asks for today's (`strftime_now`), at \
             midnight: however often a job is taken up, its prompts are the same.",
        ),
        key(
            "batch_invariant",
            Bool,
            Value("false"),
            "",
            "The reference mode: a completion is the same bits whatever the batch, slot or order, \
             and trainer and sampler agree to the last bit. float32 on the CPU; slower.",
        ),
        key(
            "model",
            Kind::Table(MODEL),
            Required("add a table [model] with `path`, or with `init` and `tokenizer`"),
            "",
            "The job's own model: the weights that its first stage starts from.",
        ),
        key(
            "models",
            Named(MODELS),
            Value("{}"),
            "",
            "Further models by name, which stages name by `model`: students, for one. Their dtype \
             and fp8 are [model]'s.",
        ),
        key(
            "parallel",
            Later("a job runs on one device; leave the table out"),
            Unset("one rank on this node"),
            "",
            "Ranks and transport.",
        ),
        key(
            "data",
            Named(DATA),
            Required("add a table [data.train] with a `path`"),
            "",
            "Data sets by name.",
        ),
        key(
            "stage",
            STAGES,
            Required("add a [[stage]] with `name`, `kind` and `data`"),
            "",
            "The stages, in the order in which they run.",
        ),
        key(
            "sampler",
            Kind::Table(SAMPLER),
            Value("{}"),
            "",
            "How completions are sampled, in every stage and evaluation.",
        ),
        key(
            "checkpoint",
            Kind::Table(CHECKPOINT),
            Value("{}"),
            "",
            "What is written so that a killed job goes on.",
        ),
        key(
            "eval",
            Tables(EVAL),
            Value("[]"),
            "",
            "Evaluations on held-out data: of the weights that the job starts from, inside \
             stages, and after each stage.",
        ),
    ]],
};

const WEIGHTS: &[Key] = &[
    key(
        "path",
        Path,
        Unset("`init` and `tokenizer` are there instead"),
        "",
        "Hugging Face directory: config.json, *.safetensors, tokenizer.json.",
    ),
    key(
        "init",
        Path,
        Unset("`path` is there instead"),
        "",
        "A config.json: random weights by the job's seed.",
    ),
    key(
        "tokenizer",
        Path,
        Unset("it comes with `path`"),
        "",
        "tokenizer.json, or a directory that holds it; only with `init`.",
    ),
];

static MODELS: &Table = &Table {
    path: "models.NAME",
    meaning: "A further model, with a tokenizer of its own. `from = \"base\"` of a stage that has \
              it means its own weights.",
    groups: &[WEIGHTS],
};

static MODEL: &Table = &Table {
    path: "model",
    meaning: "The model that \"base\" names: a Hugging Face directory, or random weights for a \
              config.json.",
    groups: &[
        WEIGHTS,
        &[
            key(
                "dtype",
                OneOf(&["float32", "bfloat16"]),
                Value("\"float32\""),
                "",
                "What weights and activations are kept in; the optimiser's state and the \
                 log-probabilities are float32 either way.",
            ),
            key(
                "fp8",
                Bool,
                Value("false"),
                "",
                "Linear layers multiply in FP8 (e4m3, a scale per row) in forward passes; \
                 gradients, routers and the head stay in bfloat16. Needs dtype = \"bfloat16\" and \
                 an H100 or H200.",
            ),
        ],
    ],
};

static DATA: &Table = &Table {
    path: "data.NAME",
    meaning: "A data set and how its columns are read. A column that no key names reaches the \
              rewards as `meta`.",
    groups: &[&[
        key(
            "path",
            Path,
            Required("name a .jsonl or .parquet file"),
            "",
            "JSON or Parquet by its ending: .jsonl, .json, .ndjson (an object a line, or one list \
             of objects), these with .gz or .zst, or .parquet; a glob takes every file that \
             matches, in the order of their names. Keys below name columns, or parts of them by \
             path: `reward_model.ground_truth`.",
        ),
        key(
            "messages",
            Text,
            Unset("\"messages\" for rows that have such a column, and none for `prompt`"),
            "",
            "Column: whole conversations, instead of `prompt` and `completion`. What comes before \
             the last message of the assistant is the prompt, that message the completion; a \
             conversation that ends otherwise is a prompt.",
        ),
        key(
            "prompt",
            Text,
            Unset(
                "\"prompt\" where a stage other than pretrain or an evaluation reads the data set",
            ),
            "",
            "Column: the question, or a list of messages with `role` and `content`; their other \
             keys (`tool_calls`, `reasoning_content`, …) reach the chat template. One that ends \
             in the assistant's message is continued there.",
        ),
        key(
            "completion",
            Text,
            Unset(
                "\"completion\" where an sft stage, or a reward-model stage with loss = \
                 \"pointwise\", reads the data set",
            ),
            "",
            "Column: what an sft stage teaches to answer, or the answer that has a `label`: a \
             text, or messages, which the chat template writes and ends.",
        ),
        key(
            "chosen",
            Text,
            Unset("\"chosen\" where a stage that learns from pairs reads the data set"),
            "",
            "Column: the preferred completion, a text or messages. Rows without a `prompt` column \
             hold whole texts or conversations in both. Of texts, what they share at the \
             beginning, up to a line's or turn's end, is the prompt then, and no template is \
             applied; of conversations, the messages that they share.",
        ),
        key(
            "rejected",
            Text,
            Unset("\"rejected\" where a stage that learns from pairs reads the data set"),
            "",
            "Column: the other one.",
        ),
        key(
            "label",
            Text,
            Unset(
                "\"label\" where a reward-model stage with loss = \"pointwise\" reads the data set",
            ),
            "",
            "Column: how good (safe, right) the completion is, from 0 to 1; true and false are 1 \
             and 0.",
        ),
        key(
            "margin",
            Text,
            Unset("no margin"),
            "",
            "Column: by how much a reward model's scores of a pair shall differ at least.",
        ),
        key(
            "text",
            Text,
            Unset("\"text\" where a pretrain stage reads the data set"),
            "",
            "Column: what a pretrain stage reads.",
        ),
        key(
            "reference",
            Text,
            Unset("no reference reaches the rewards"),
            "",
            "Column: what the accuracy reward compares with.",
        ),
        key(
            "domain",
            Text,
            Unset("every reward judges every row"),
            "",
            "Column: which rewards judge the row, by their `domains`.",
        ),
        key(
            "tools",
            Text,
            Unset("the column \"tools\", in rows that have one"),
            "",
            "Column: what a chat template is told of tools: a list of JSON schemas, or a string \
             that is one.",
        ),
        key(
            "shuffle",
            Bool,
            Value("true"),
            "",
            "Each epoch in an order of its own, by the job's seed; false: in the file's order.",
        ),
        key(
            "template",
            Text,
            Value("\"r1-zero\""),
            "",
            "How a prompt reaches the model: \"r1-zero\" (Table 1 of the R1 paper), \"chat\" (the \
             chat template beside the tokenizer), \"plain\" (as it is), or the path of a jinja \
             file that sees `prompt`, `reference`, `domain` and `meta`. A file that reads \
             `messages` is a chat template, rendered as transformers does.",
        ),
        key(
            "chat_template_kwargs",
            Json,
            Value("{}"),
            "",
            "Further variables of a chat template, as in { enable_thinking = false }; a row's own \
             column of this name goes before.",
        ),
        key(
            "max_prompt_length",
            count(1, SEQUENCE_MAX_TOKENS),
            Unset(
                "every row is taken, and one whose prompt leaves the model no position for a \
                 completion is refused",
            ),
            "tokens",
            "Rows whose prompt has more tokens are left out, and counted in a warning.",
        ),
    ]],
};

const STAGES: Kind = Variants {
    tag: "kind",
    variants: &[
        ("pretrain", PRETRAIN),
        ("sft", SFT),
        ("distill", DISTILL),
        ("grpo", GRPO),
        ("ppo", PPO),
        ("dpo", DPO),
        ("rejection-sampling", REJECTION_SAMPLING),
        ("reward-model", REWARD_MODEL),
        ("eval", EVAL_STAGE),
    ],
};

const STAGE: &[Key] = &[
    key(
        "name",
        Name,
        Required("give the stage a name of its own"),
        "",
        "What other stages, metrics and directories call the stage.",
    ),
    key(
        "kind",
        Text,
        Required(
            "kind = \"pretrain\", \"sft\", \"distill\", \"grpo\", \"ppo\", \"dpo\", \
             \"rejection-sampling\", \"reward-model\" or \"eval\"",
        ),
        "",
        "What the stage does: \"pretrain\" (next token on packed text), \"sft\" (completions), \
         \"distill\" (completions of a teacher, for another model), \"grpo\" (group-relative \
         policy optimisation), \"ppo\" (proximal policy optimisation with a value model), \"dpo\" \
         (direct preference optimisation), \"rejection-sampling\" (the good ones of many \
         completions become a data set), \"reward-model\" (a scalar head learns preferences), \
         \"eval\" (one evaluation).",
    ),
    key(
        "model",
        Text,
        Unset("[model]"),
        "",
        "The model that the stage trains or samples: the NAME of a table [models.NAME].",
    ),
    key(
        "from",
        Text,
        Unset("the nearest stage before that trains a policy of the same model, else \"base\""),
        "",
        "Where the weights come from: the name of a stage before of the same model, or \"base\", \
         the model's own weights.",
    ),
    key(
        "data",
        Text,
        Required("name a table [data.NAME]"),
        "",
        "The data set: the NAME of a table [data.NAME], or the name of a rejection-sampling stage \
         before, whose kept completions it is then.",
    ),
    key(
        "steps",
        steps(1),
        Unset("`epochs` is there instead"),
        "steps",
        "How long the stage runs. A step of grpo is one batch of completions and the updates it \
         makes; of rejection-sampling, one batch of completions; of sft and pretrain, one update.",
    ),
    key(
        "epochs",
        Kind::Float {
            min: 0.0,
            max: STAGE_MAX_EPOCHS,
            above: true,
        },
        Unset("`steps` is there instead; 1 where a rejection-sampling stage has neither"),
        "epochs",
        "How long the stage runs, in passes over its data; the last step is rounded up.",
    ),
];

/// The keys of [`STAGE`] except those of its length: `steps` and `epochs`.
const PLACE: &[Key] = STAGE.split_at(5).0;

const SCHEDULE: &[Key] = &[
    key(
        "lr_scheduler_type",
        OneOf(&["linear", "constant", "cosine"]),
        Value("\"linear\""),
        "",
        "How the rate falls after the warm-up, from `learning_rate` to `min_lr_ratio` of it at \
         the stage's end.",
    ),
    key(
        "warmup_steps",
        steps(0),
        Value("0"),
        "updates",
        "Updates over which the rate rises from 0.",
    ),
    key(
        "min_lr_ratio",
        share(),
        Value("0.0"),
        "",
        "Where linear and cosine schedules end, as a share of `learning_rate`.",
    ),
    key(
        "adam_beta1",
        Kind::Float {
            min: 0.0,
            max: 0.999_999,
            above: false,
        },
        Value("0.9"),
        "",
        "AdamW's decay of the first moment.",
    ),
    key(
        "adam_beta2",
        Kind::Float {
            min: 0.0,
            max: 0.999_999,
            above: false,
        },
        Value("0.999"),
        "",
        "AdamW's decay of the second moment.",
    ),
    key(
        "adam_epsilon",
        above(0.0),
        Value("1e-8"),
        "",
        "AdamW's epsilon.",
    ),
    key(
        "weight_decay",
        at_least(0.0),
        Value("0.0"),
        "",
        "Decoupled; not applied to norms, biases and the router's correction bias.",
    ),
    key(
        "max_grad_norm",
        at_least(0.0),
        Value("1.0"),
        "",
        "Global norm that gradients are clipped to; 0: no clipping.",
    ),
    key(
        "max_tokens_per_device",
        count(16, MICRO_BATCH_MAX_TOKENS),
        Value("16384"),
        "tokens",
        "Micro-batches are packed to this many tokens: it bounds the memory of activations and \
         changes no result beyond rounding.",
    ),
];

/// Keys of low-rank adapters, which have TRL's names.
const LORA: &[Key] = &[
    key(
        "lora_r",
        Integer {
            min: 0,
            max: 65_536,
        },
        Value("0"),
        "",
        "Rank of low-rank adapters (LoRA) that are trained while the weights stay as they are; 0: \
         the weights are trained. What the stage leaves is merged (in bfloat16 rounded once \
         more), with the adapter beside it in peft's format.",
    ),
    key(
        "lora_alpha",
        above(0.0),
        Value("32.0"),
        "",
        "The adapters' part is scaled by lora_alpha / lora_r.",
    ),
    key(
        "lora_target_modules",
        Texts,
        Value("[\"all-linear\"]"),
        "",
        "Linear layers that get an adapter, by the last parts of their names (\"q_proj\", \
         \"self_attn.o_proj\"); \"all-linear\": all but the output head. In mixture-of-experts \
         models attention alone gets some.",
    ),
];

const fn learning_rate(default: &'static str) -> Key {
    key(
        "learning_rate",
        at_least(0.0),
        Value(default),
        "",
        "AdamW's rate after the warm-up.",
    )
}

const fn bias_update_speed(default: &'static str) -> Key {
    key(
        "bias_update_speed",
        at_least(0.0),
        Value(default),
        "",
        "Step of the router's correction bias per update (auxiliary-loss-free balancing, gamma of \
         DeepSeek-V3 2.1.2); 0 freezes it. No effect on models whose routers have none.",
    )
}

const fn aux_loss_alpha(default: &'static str) -> Key {
    key(
        "aux_loss_alpha",
        at_least(0.0),
        Value(default),
        "",
        "Weight of the sequence-wise balance loss (DeepSeek-V3 eq. 17; with a softmax router the \
         expert-level loss of DeepSeek-V2, which used 0.003); 0: none. No effect on dense models.",
    )
}

const DEVICE_LOSS_ALPHA: Key = key(
    "device_loss_alpha",
    at_least(0.0),
    Value("0.0"),
    "",
    "Weight of the device-level balance loss (DeepSeek-V2 2.2.3, which used 0.05), with the \
     router's groups as devices; 0: none. No effect on dense models.",
);

const MTP_LOSS_WEIGHT: Key = key(
    "mtp_loss_weight",
    at_least(0.0),
    Value("0.0"),
    "",
    "Weight of multi-token prediction (lambda of DeepSeek-V3 2.2, which used 0.3, then 0.1); the \
     model's config.json must have num_nextn_predict_layers = 1. 0: its prediction module is left \
     out.",
);

/// The key of further data sets, for stages that read whole rows.
const MORE_DATA: Key = key(
    "more_data",
    Texts,
    Value("[]"),
    "",
    "Further data sets by name, whose rows are appended to those of `data` and shuffled with them \
     where that one is.",
);

const fn prompts_per_step(meaning: &'static str) -> Key {
    key(
        "prompts_per_step",
        count(1, STEP_MAX_ROWS),
        Value("32"),
        "prompts",
        meaning,
    )
}

const fn num_generations(default: &'static str, meaning: &'static str) -> Key {
    key(
        "num_generations",
        count(1, PROMPT_MAX_COMPLETIONS),
        Value(default),
        "completions",
        meaning,
    )
}

const MAX_COMPLETION_LENGTH: Key = key(
    "max_completion_length",
    count(1, SEQUENCE_MAX_TOKENS),
    Value("512"),
    "tokens",
    "A completion that is this long is cut off.",
);

/// The kind of a sampling temperature; 0 is greedy and refused if `above`.
const fn temperatures(above: bool) -> Kind {
    Kind::Float {
        min: 0.0,
        max: TEMPERATURE_MAX,
        above,
    }
}

const fn temperature(meaning: &'static str) -> Key {
    key(
        "temperature",
        temperatures(false),
        Value("1.0"),
        "",
        meaning,
    )
}

const TOP_P: Key = key(
    "top_p",
    Kind::Float {
        min: 0.0,
        max: 1.0,
        above: true,
    },
    Value("1.0"),
    "",
    "Nucleus sampling; 1: off.",
);
const TOP_K: Key = key(
    "top_k",
    count(0, u32::MAX),
    Value("0"),
    "",
    "Only the k likeliest ids; 0: off.",
);

const ROUTING_REPLAY_REFERENCE: Key = key(
    "routing_replay_reference",
    Bool,
    Value("false"),
    "",
    "With `routing_replay`, the reference takes the sampler's experts too. false: it routes by \
     itself, as the model that it is; the paper forces the policy's experts, and DPO's reference \
     and PPO's value model always route by themselves.",
);

const KEEP_SAMPLING_MASK: Key = key(
    "keep_sampling_mask",
    Bool,
    Value("true"),
    "",
    "Where top_p or top_k cut ids off, log-probabilities of sampler, policy and reference are \
     over those that were left (Keep Sampling Mask, DeepSeek-V3.2 3.1), whose mean number is \
     `sampling/kept_ids/mean`; false: over the whole vocabulary. No effect with top_p = 1.0 and \
     top_k = 0.",
);

const fn rewards(meaning: &'static str) -> Key {
    key(
        "reward",
        Tables(REWARD),
        Required("add a [[stage.reward]] with plugin = \"accuracy\""),
        "",
        meaning,
    )
}

const fn max_length(meaning: &'static str) -> Key {
    key(
        "max_length",
        count(2, SEQUENCE_MAX_TOKENS),
        Value("1024"),
        "tokens",
        meaning,
    )
}

static PRETRAIN: &Table = &Table {
    path: "stage",
    meaning: "kind = \"pretrain\": next-token training on text, packed into sequences of one \
              length.",
    groups: &[
        STAGE,
        &[
            MORE_DATA,
            key(
                "batch_size",
                count(1, STEP_MAX_ROWS),
                Value("8"),
                "sequences",
                "Packed sequences of one update.",
            ),
            max_length(
                "Tokens of a packed sequence; documents run into each other with the \
                 end-of-sequence id between them.",
            ),
            learning_rate("3e-4"),
        ],
        SCHEDULE,
        &[
            bias_update_speed("0.001"),
            aux_loss_alpha("0.0001"),
            DEVICE_LOSS_ALPHA,
            MTP_LOSS_WEIGHT,
        ],
    ],
};

const fn tokenize(default: Default) -> Key {
    key(
        "tokenize",
        OneOf(&["together", "apart"]),
        default,
        "",
        "\"together\": prompt and completion are one text, tokenised together and cut where the \
         prompt's own tokens end, as TRL does; \"apart\": each by itself, as a sampler makes \
         them, so that no token spans the border (a SentencePiece tokenizer may put a space \
         before the completion then).",
    )
}

const LEARNED: Default = Unset(
    "\"together\"; \"apart\" for what a rejection-sampling stage of the same model kept, which \
     are the ids that it sampled",
);

static SFT: &Table = &Table {
    path: "stage",
    meaning: "kind = \"sft\": supervised fine-tuning; the loss is on the completion and the \
              end-of-sequence id alone.",
    groups: &[
        STAGE,
        &[
            MORE_DATA,
            key(
                "batch_size",
                count(1, STEP_MAX_ROWS),
                Value("8"),
                "rows",
                "Rows of one update.",
            ),
            max_length(
                "Prompt and completion together; longer rows are cut there, and counted in the \
                 log.",
            ),
            tokenize(LEARNED),
            learning_rate("2e-5"),
        ],
        SCHEDULE,
        LORA,
        &[
            bias_update_speed("0.0"),
            aux_loss_alpha("0.0"),
            DEVICE_LOSS_ALPHA,
            MTP_LOSS_WEIGHT,
        ],
    ],
};

static DISTILL: &Table = &Table {
    path: "stage",
    meaning: "kind = \"distill\": sft of a student, whose `model` is another than the one that \
              wrote the completions: their text is tokenised by the student's own tokenizer, in \
              its own chat template (DeepSeek-R1 2.4).",
    groups: &[
        STAGE,
        &[
            MORE_DATA,
            key(
                "template",
                Text,
                Value("\"chat\""),
                "",
                "How prompts reach the student, whatever the data sets say: \"chat\" (the chat \
                 template beside its tokenizer), \"r1-zero\", \"plain\", or the path of a jinja \
                 file.",
            ),
            key(
                "batch_size",
                count(1, STEP_MAX_ROWS),
                Value("8"),
                "rows",
                "Rows of one update.",
            ),
            max_length(
                "Prompt and completion together; longer rows are cut there, and counted in the \
                 log.",
            ),
            tokenize(LEARNED),
            learning_rate("2e-5"),
        ],
        SCHEDULE,
        LORA,
        &[
            bias_update_speed("0.0"),
            aux_loss_alpha("0.0"),
            DEVICE_LOSS_ALPHA,
            MTP_LOSS_WEIGHT,
        ],
    ],
};

static EVAL_STAGE: &Table = &Table {
    path: "stage",
    meaning: "kind = \"eval\": one evaluation of the weights that come `from` a stage, which are \
              passed on as they are. The defaults are R1's protocol.",
    groups: &[PLACE, EVALUATION],
};

const CHANGES: Key = key(
    "schedule",
    Tables(CHANGE),
    Value("[]"),
    "",
    "What changes on the way: each table holds from the step after its `after_step` on (R1-Zero \
     went from 32,768 to 65,536 tokens after 8,200).",
);

static CHANGE: &Table = &Table {
    path: "stage.schedule",
    meaning: "Settings that hold from a step of the stage on, until a later table changes them \
              again.",
    groups: &[&[
        key(
            "after_step",
            steps(1),
            Required("say after which step"),
            "steps",
            "Steps before the change.",
        ),
        key(
            "temperature",
            temperatures(true),
            Unset("as before"),
            "",
            "Of sampling, and of the log-probabilities in the objective.",
        ),
        key(
            "max_completion_length",
            count(1, SEQUENCE_MAX_TOKENS),
            Unset("as before"),
            "tokens",
            "A completion that is this long is cut off.",
        ),
    ]],
};

static REWARD_MODEL: &Table = &Table {
    path: "stage",
    meaning: "kind = \"reward-model\": a scalar head over the trunk of `from` learns from \
              preferences (DeepSeek-R1, Methods). It is no policy: rewards ask it by the stage's \
              name (`model` of [[stage.reward]]), transformers loads it as \
              …ForSequenceClassification with one label, and later stages do not start from it. A \
              text is prompt, completion, end-of-sequence id; the last token's hidden state is \
              scored.",
    groups: &[
        STAGE,
        &[
            MORE_DATA,
            key(
                "loss",
                OneOf(&["pairwise", "pointwise"]),
                Value("\"pairwise\""),
                "",
                "\"pairwise\": Bradley–Terry on `chosen` and `rejected` (R1's helpfulness); \
                 \"pointwise\": logistic on `completion` and `label` (R1's safety).",
            ),
            key(
                "batch_size",
                count(1, STEP_MAX_ROWS),
                Value("8"),
                "rows",
                "Rows of one update. R1 used 256.",
            ),
            max_length(
                "Prompt and completion together; longer texts are cut there, and counted in the \
                 log. R1 used 8,192.",
            ),
            key(
                "center_rewards_coefficient",
                at_least(0.0),
                Value("0.0"),
                "",
                "With loss = \"pairwise\": weight of the squared sum of a pair's scores, which \
                 holds them around 0 (Eisenstein et al. 2023 recommend 0.01).",
            ),
            key(
                "eval_data",
                Text,
                Unset("nobody asks how well it tells good from bad"),
                "",
                "Held-out rows, a NAME of [data.NAME]: the finished model's accuracy on them is \
                 recorded, and a warning where it does not separate.",
            ),
            learning_rate("1e-5"),
        ],
        SCHEDULE,
        &[
            bias_update_speed("0.0"),
            aux_loss_alpha("0.0"),
            DEVICE_LOSS_ALPHA,
        ],
    ],
};

static DPO: &Table = &Table {
    path: "stage",
    meaning: "kind = \"dpo\": direct preference optimisation (Rafailov et al. 2023) of a policy \
              on pairs, held to a frozen copy of the stage's first weights.",
    groups: &[
        STAGE,
        &[
            MORE_DATA,
            key(
                "batch_size",
                count(1, STEP_MAX_ROWS),
                Value("8"),
                "pairs",
                "Pairs of one update.",
            ),
            max_length(
                "Prompt and completion together; longer ones are cut there, and counted in the \
                 log.",
            ),
            tokenize(Value("\"together\"")),
            key(
                "loss_type",
                OneOf(&["sigmoid", "robust", "ipo"]),
                Value("\"sigmoid\""),
                "",
                "\"sigmoid\": Bradley–Terry; \"robust\": unbiased where a share `label_smoothing` \
                 of the labels is flipped; \"ipo\": squared distance of mean log-ratios to 1 / (2 \
                 beta).",
            ),
            key(
                "beta",
                above(0.0),
                Value("0.1"),
                "",
                "How strongly the policy is held to the reference; tau of IPO.",
            ),
            key(
                "label_smoothing",
                Kind::Float {
                    min: 0.0,
                    max: 0.499_999,
                    above: false,
                },
                Value("0.0"),
                "",
                "Share of the labels that are taken to be flipped; not for \"ipo\".",
            ),
            learning_rate("1e-6"),
        ],
        SCHEDULE,
        &[
            bias_update_speed("0.0"),
            aux_loss_alpha("0.0"),
            DEVICE_LOSS_ALPHA,
        ],
    ],
};

static PPO: &Table = &Table {
    path: "stage",
    meaning: "kind = \"ppo\": proximal policy optimisation (Schulman et al. 2017) with a value \
              model, generalised advantage estimation and the KL divergence in the reward.",
    groups: &[
        STAGE,
        &[
            prompts_per_step("Prompts of one step."),
            num_generations("1", "Completions of each prompt."),
            MAX_COMPLETION_LENGTH,
            temperature(
                "Of sampling; log-probabilities in the objective are of logits / temperature.",
            ),
            TOP_P,
            TOP_K,
            key(
                "num_ppo_epochs",
                count(1, STEP_MAX_PASSES),
                Value("4"),
                "passes",
                "Passes over a step's completions.",
            ),
            key(
                "num_mini_batches",
                count(1, STEP_MAX_ROWS),
                Value("1"),
                "updates",
                "Minibatches, and so updates, per pass.",
            ),
            key(
                "cliprange",
                above(0.0),
                Value("0.2"),
                "",
                "The policy's ratio is clipped to 1 ± this.",
            ),
            key(
                "cliprange_value",
                above(0.0),
                Value("0.2"),
                "",
                "How far a value may move from the one before the step.",
            ),
            key(
                "vf_coef",
                at_least(0.0),
                Value("0.1"),
                "",
                "Weight of the value loss.",
            ),
            key(
                "gamma",
                share(),
                Value("1.0"),
                "",
                "Discount of each token.",
            ),
            key(
                "lam",
                share(),
                Value("0.95"),
                "",
                "Lambda of advantage estimation: 0 trusts the values alone, 1 the rewards alone \
                 (R1 found 1 near GRPO, 0.95 worse).",
            ),
            key(
                "kl_coef",
                at_least(0.0),
                Value("0.05"),
                "",
                "Weight of the k1 estimate of the KL divergence from the stage's first weights, \
                 in each token's reward; 0 keeps no reference.",
            ),
            KEEP_SAMPLING_MASK,
            key(
                "routing_replay",
                Bool,
                Value("true"),
                "",
                "The trainer takes the experts that the sampler took. No effect on dense models.",
            ),
            ROUTING_REPLAY_REFERENCE,
            key(
                "value_model",
                Text,
                Unset("the policy's first weights with a fresh head"),
                "",
                "A reward-model stage before, by name: the value model starts from its weights.",
            ),
            key(
                "value_learning_rate",
                at_least(0.0),
                Unset("`learning_rate`"),
                "",
                "AdamW's rate of the value model; its schedule is the policy's.",
            ),
            learning_rate("1e-6"),
        ],
        SCHEDULE,
        &[
            bias_update_speed("0.0"),
            aux_loss_alpha("0.0"),
            DEVICE_LOSS_ALPHA,
            CHANGES,
            rewards(
                "What judges completions: the weighted sum of the scores is the reward of a \
                 completion's last token.",
            ),
        ],
    ],
};

static GRPO: &Table = &Table {
    path: "stage",
    meaning: "kind = \"grpo\": group-relative policy optimisation (DeepSeekMath 4.1, DeepSeek-R1 \
              2.1).",
    groups: &[
        STAGE,
        &[
            prompts_per_step("Prompts, and so groups, of one step. R1 used 32 per update."),
            num_generations(
                "8",
                "Completions of each prompt: the group that advantages are relative to. R1 used \
                 16.",
            ),
            MAX_COMPLETION_LENGTH,
            temperature(
                "Of sampling; log-probabilities in the objective are of logits / temperature.",
            ),
            TOP_P,
            TOP_K,
            key(
                "num_iterations",
                count(1, STEP_MAX_PASSES),
                Value("1"),
                "passes",
                "Passes over a step's completions (mu of GRPO).",
            ),
            key(
                "steps_per_generation",
                count(1, STEP_MAX_ROWS),
                Value("1"),
                "updates",
                "Minibatches, and so updates, per pass. R1 split 8,192 completions into 16.",
            ),
            key(
                "loss_type",
                OneOf(&["grpo", "dr_grpo", "dapo"]),
                Value("\"dapo\""),
                "",
                "How token terms are averaged: \"grpo\" by sequence then over sequences (the \
                 papers of DeepSeek), \"dapo\" over all tokens of the batch, \"dr_grpo\" over \
                 sequences × `max_completion_length`.",
            ),
            key(
                "importance_sampling_level",
                OneOf(&["token", "sequence"]),
                Value("\"token\""),
                "",
                "What the ratio to the sampling policy is taken of: each token, or the sequence \
                 (GSPO).",
            ),
            key(
                "baseline",
                OneOf(&["group", "leave-one-out", "batch"]),
                Value("\"group\""),
                "",
                "What a reward is compared with: the mean of its group (\"group\": GRPO), of its \
                 group's others (\"leave-one-out\": RLOO, with scale_rewards = \"none\"), or of \
                 the step (\"batch\": REINFORCE++, with scale_rewards = \"batch\"; \"group\" with \
                 \"batch\" is its variant with a baseline).",
            ),
            key(
                "scale_rewards",
                OneOf(&["group", "batch", "none"]),
                Value("\"group\""),
                "",
                "Whose standard deviation advantages are divided by.",
            ),
            key(
                "epsilon",
                at_least(0.0),
                Value("0.2"),
                "",
                "The ratio is clipped to [1 − epsilon, 1 + epsilon_high]. R1 used 10 for both.",
            ),
            key(
                "epsilon_high",
                at_least(0.0),
                Unset("`epsilon`"),
                "",
                "The upper side of the clip; DAPO used 0.28.",
            ),
            key(
                "beta",
                at_least(0.0),
                Value("0.0"),
                "",
                "Weight of the k3 estimate of the KL divergence from the reference; 0 keeps no \
                 reference. R1 used 0.001.",
            ),
            key(
                "use_bias_correction_kl",
                Bool,
                Value("true"),
                "",
                "The KL estimate is weighted by the importance ratio, which makes it unbiased \
                 where a step makes several updates (DeepSeek-V3.2 3.1).",
            ),
            key(
                "off_policy_mask_threshold",
                score(),
                Unset("every completion trains"),
                "",
                "Completions with a negative advantage whose mean log-ratio of sampler to policy \
                 is above this do not train the policy (off-policy sequence masking, \
                 DeepSeek-V3.2 3.1).",
            ),
            key(
                "sync_ref_steps",
                steps(0),
                Value("0"),
                "steps",
                "Steps between refreshes of the reference from the policy; 0: never. R1 used 400 \
                 updates.",
            ),
            key(
                "mask_truncated_completions",
                Bool,
                Value("false"),
                "",
                "Completions that hit `max_completion_length` do not train.",
            ),
            key(
                "dynamic_sampling",
                Bool,
                Value("false"),
                "",
                "Groups whose rewards are all equal teach nothing: other prompts are sampled in \
                 their place (DAPO).",
            ),
            key(
                "max_resample_rounds",
                count(1, STEP_MAX_ROUNDS),
                Value("4"),
                "rounds",
                "With `dynamic_sampling`: rounds of further prompts in a step; then the step \
                 trains on the groups it has.",
            ),
            KEEP_SAMPLING_MASK,
            key(
                "routing_replay",
                Bool,
                Value("true"),
                "",
                "The trainer takes the experts that the sampler took (Keep Routing, DeepSeek-V3.2 \
                 3.1). No effect on dense models.",
            ),
            ROUTING_REPLAY_REFERENCE,
            key(
                "speculative_decoding",
                Bool,
                Value("false"),
                "",
                "Decode with drafts of the model's multi-token prediction module, which is kept \
                 and not trained: the same completions in fewer steps, as \
                 `perf/draft_acceptance_rate` tells.",
            ),
            learning_rate("1e-6"),
        ],
        SCHEDULE,
        LORA,
        &[
            bias_update_speed("0.0"),
            aux_loss_alpha("0.0"),
            DEVICE_LOSS_ALPHA,
            CHANGES,
            rewards("What judges completions: the weighted sum of the scores is the reward."),
        ],
    ],
};

static REJECTION_SAMPLING: &Table = &Table {
    path: "stage",
    meaning: "kind = \"rejection-sampling\": of many completions the good ones become the data \
              set of later stages, which read it by the stage's name (DeepSeek-R1 2.3.3). Nothing \
              is trained; `from` of a later stage that names this one means the weights that this \
              one samples from. Completions that are cut off are never kept.",
    groups: &[
        STAGE,
        &[
            prompts_per_step("Prompts of one step."),
            num_generations(
                "16",
                "Completions of each prompt, of which the good ones are kept.",
            ),
            MAX_COMPLETION_LENGTH,
            temperature(
                "Of sampling; 0, the likeliest token each time, with num_generations = 1 alone.",
            ),
            TOP_P,
            TOP_K,
            key(
                "select",
                OneOf(&["correct", "best-of-n", "top-p"]),
                Value("\"correct\""),
                "",
                "Which completions of a prompt are good: \"correct\": those whose first reward \
                 scores at least `correct_at`; \"best-of-n\": the best by the reward, the \
                 weighted sum of the scores; \"top-p\": the best `keep_share` of them. What \
                 `min_score` of a reward drops never is.",
            ),
            key(
                "correct_at",
                score(),
                Value("1.0"),
                "",
                "With select = \"correct\": a completion is correct when the score of the first \
                 reward that judges its row is at least this.",
            ),
            key(
                "keep_share",
                Kind::Float {
                    min: 0.0,
                    max: 1.0,
                    above: true,
                },
                Value("0.25"),
                "",
                "With select = \"top-p\": the share of a prompt's `num_generations` completions \
                 that is good, rounded up to whole ones.",
            ),
            key(
                "keep",
                count(0, PROMPT_MAX_COMPLETIONS),
                Unset("1 with select = \"best-of-n\", else 0"),
                "completions",
                "Completions kept of each prompt and pass over the data: of the good ones the \
                 best by the reward, of equals the first sampled; 0: all of them.",
            ),
            key(
                "review",
                Bool,
                Value("false"),
                "",
                "The job waits after the stage until somebody has looked at its data set: `r1ctl \
                 dataset review JOB STAGE` exports it and takes the edited file in its place, or \
                 accepts it.",
            ),
            CHANGES,
            rewards(
                "What judges completions: the first says what is correct, the weighted sum of the \
                 scores is the reward.",
            ),
        ],
    ],
};

static REWARD: &Table = &Table {
    path: "stage.reward",
    meaning: "A WASM plugin that scores completions.",
    groups: &[&[
        key(
            "plugin",
            Text,
            Required("plugin = \"accuracy\", or the path of a component"),
            "",
            "A name in the plugin directories, or a path (with a slash, or ending in .wasm).",
        ),
        key(
            "name",
            Name,
            Unset("the plugin's"),
            "",
            "What metrics and verdicts call it; unique in its stage.",
        ),
        key(
            "weight",
            score(),
            Value("1.0"),
            "",
            "Its score is multiplied by this before scores are added.",
        ),
        key(
            "config",
            Json,
            Value("{}"),
            "",
            "Handed to the plugin as JSON.",
        ),
        key(
            "limits",
            Kind::Table(LIMITS),
            Value("{}"),
            "",
            "What one completion may cost.",
        ),
        key(
            "model",
            Text,
            Unset("the reward-model stage with the plugin's name"),
            "",
            "Whom a plugin asks that asks a model: a stage before (a reward model, or a policy's \
             last weights), the NAME of a table [models.NAME] with `path`, or the path (with a \
             slash) of a Hugging Face directory. A reward model (…ForSequenceClassification with \
             one label) answers with a number, as helpfulness and harmlessness ask for; any other \
             writes an answer, as correctness asks for, greedily and in its own chat template. \
             Completions are sent to it once a step's sampling is done.",
        ),
        key(
            "max_answer_length",
            Integer {
                min: 1,
                max: 1 << 20,
            },
            Value("1024"),
            "tokens",
            "Of one answer of a model that writes, at most; the plugin may ask for less \
             (correctness: its config's max_tokens, 512).",
        ),
        key(
            "domains",
            Texts,
            Value("[]"),
            "",
            "Only rows of these domains; empty: all rows.",
        ),
        key(
            "after_step",
            steps(0),
            Value("0"),
            "steps",
            "It judges from the step after so many on: R1 kept preference rewards for the last \
             400 of 1,700 steps. An evaluation uses it always.",
        ),
        key(
            "on_abstain",
            WordOrScore(&["drop-sample", "drop-group"]),
            Value("\"drop-sample\""),
            "",
            "What an abstention (a reference that cannot be read) does.",
        ),
        key(
            "on_fault",
            WordOrScore(&["min", "drop-sample"]),
            Value("\"min\""),
            "",
            "What a fault (a trap, fuel used up) does: \"min\" gives the plugin's declared \
             minimum, so that a policy gains nothing from hanging its judge.",
        ),
        key(
            "min_score",
            score(),
            Unset("no score is too low"),
            "",
            "In a rejection-sampling stage alone: a completion whose score is lower, or on which \
             the plugin fails, is not kept (mixed languages, length, format).",
        ),
        key(
            "sha256",
            Sha256,
            Unset("whatever component has the name"),
            "",
            "Pins the component: another one is refused.",
        ),
    ]],
};

static LIMITS: &Table = &Table {
    path: "stage.reward.limits",
    meaning: "Limits of one call of a plugin: one completion.",
    groups: &[&[
        key(
            "fuel",
            Integer {
                min: 1,
                max: i64::MAX,
            },
            Unset(
                "50,000,000 and 2,000 for each byte of input; 100 times that for a component of \
                 1.5 MiB or more",
            ),
            "WASM fuel",
            "About one per executed instruction; the same completion costs the same on every \
             machine.",
        ),
        key(
            "memory_mb",
            Integer { min: 1, max: 512 },
            Unset("64; 512 for a component of 1.5 MiB or more, which has an interpreter inside"),
            "MiB",
            "Linear memory.",
        ),
        key(
            "hostcall_kb",
            Integer { min: 1, max: 65536 },
            Value("17"),
            "KiB",
            "What a plugin may hand to the host in one call: its parts and its reason. 1 KiB more \
             for each further completion of a group.",
        ),
        key(
            "wall_ms",
            Integer {
                min: 1,
                max: 3_600_000,
            },
            Unset("2,000, and what the fuel takes on a very slow machine"),
            "ms",
            "A backstop behind the fuel. A completion that hits it is judged once more with six \
             times of it; when that is not enough, the job stops and names the plugin. The stack \
             is always 512 KiB.",
        ),
    ]],
};

static SAMPLER: &Table = &Table {
    path: "sampler",
    meaning: "The sampler's cache. Each step and each evaluation cuts it into slots of its own \
              longest prompt and completion.",
    groups: &[&[
        key(
            "slots",
            Integer {
                min: 0,
                max: 65_536,
            },
            Value("0"),
            "completions",
            "Completions decoded at a time; 0: all of a step's, at most 256. Fewer where \
             completions are so long that the cache does not hold as many.",
        ),
        key(
            "tokens",
            Integer {
                min: 0,
                max: 1 << 30,
            },
            Value("0"),
            "tokens",
            "Prompt and completion tokens that the cache holds, of all slots together; 0: what \
             the stage's own steps need, or one completion of an evaluation where that is longer; \
             in stages that sample for evaluations alone at most 524,288. More lets long \
             evaluations decode more completions at a time.",
        ),
    ]],
};

static CHECKPOINT: &Table = &Table {
    path: "checkpoint",
    meaning: "Checkpoints: a job that is killed goes on from the newest, replaying journaled \
              steps after it, and ends with the same bits.",
    groups: &[&[
        key(
            "every_steps",
            steps(0),
            Value("50"),
            "steps",
            "Steps between checkpoints inside a stage; 0: only at its end.",
        ),
        key(
            "keep",
            Integer {
                min: 1,
                max: 1_000_000,
            },
            Value("3"),
            "checkpoints",
            "The newest of each stage that are kept.",
        ),
        key(
            "to",
            Text,
            Unset("the job's directory under the daemon's state directory"),
            "",
            "Where checkpoints go: file:// and an absolute path.",
        ),
    ]],
};

static EVAL: &Table = &Table {
    path: "eval",
    meaning: "An evaluation: completions sampled from held-out prompts, scored.",
    groups: &[EVAL_MOMENTS, EVALUATION],
};

/// Keys that decide when an evaluation runs.
const EVAL_MOMENTS: &[Key] = &[
    key(
        "data",
        Text,
        Required("name a table [data.NAME]"),
        "",
        "The data set.",
    ),
    key(
        "every_steps",
        steps(0),
        Value("0"),
        "steps",
        "Steps between evaluations inside a stage; 0: only at the job's start and after each \
         stage.",
    ),
    key(
        "stages",
        Texts,
        Value("[]"),
        "",
        "Stages inside which `every_steps` counts; empty: all.",
    ),
    key(
        "at_start",
        Bool,
        Value("true"),
        "",
        "Also of the weights that the job starts from.",
    ),
];

/// Keys of what an evaluation samples and reports.
const EVALUATION: &[Key] = &[
    key(
        "num_generations",
        count(1, PROMPT_MAX_COMPLETIONS),
        Value("1"),
        "completions",
        "Completions of each prompt.",
    ),
    key(
        "temperature",
        temperatures(false),
        Value("0.6"),
        "",
        "Of sampling; 0: the likeliest token each time. R1 evaluated at 0.6.",
    ),
    key(
        "top_p",
        Kind::Float {
            min: 0.0,
            max: 1.0,
            above: true,
        },
        Value("0.95"),
        "",
        "Nucleus sampling; 1: off. R1 evaluated at 0.95.",
    ),
    key(
        "top_k",
        count(0, u32::MAX),
        Value("0"),
        "",
        "Only the k likeliest ids; 0: off.",
    ),
    key(
        "max_completion_length",
        count(1, SEQUENCE_MAX_TOKENS),
        Unset("the longest of the stages' that sample, else 512"),
        "tokens",
        "A completion that is this long is cut off.",
    ),
    key(
        "max_rows",
        steps(0),
        Value("0"),
        "rows",
        "Only the first rows of the data set; 0: all.",
    ),
    key(
        "metrics",
        Texts,
        Value("[\"pass@1\"]"),
        "",
        "pass@k: the chance that one of k completions is correct (pass@1: mean correctness); \
         avg@k: mean correctness of the first k; cons@k: whether the answer that most of k \
         completions give is correct. Each is a mean over rows, with a 95 % confidence interval \
         (`pass@1_ci_low`, `pass@1_ci_high`); so are the rewards' mean scores, \
         `rewards/NAME/mean`.",
    ),
    key(
        "rewards",
        Texts,
        Value("[\"accuracy\"]"),
        "",
        "What scores: names of the stages' rewards (with their configuration), or of plugins. The \
         first says what is correct.",
    ),
    key(
        "correct_at",
        score(),
        Value("1.0"),
        "",
        "A completion is correct when the first reward's score is at least this.",
    ),
];

/// Constructs a key. With the constructors below, a key reads as one line of a table.
const fn key(
    name: &'static str,
    kind: Kind,
    default: Default,
    unit: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        unit,
        meaning,
    }
}

/// A whole number from `min` up to one of [`crate::limits`].
const fn count(min: i64, max: u32) -> Kind {
    Kind::Integer {
        min,
        max: max as i64,
    }
}

const fn steps(min: i64) -> Kind {
    Kind::Integer {
        min,
        max: STAGE_MAX_STEPS as i64,
    }
}

/// The kind of a score, or of a number that a score is multiplied by.
const fn score() -> Kind {
    Kind::Float {
        min: -NUMBER_MAX,
        max: NUMBER_MAX,
        above: false,
    }
}

const fn at_least(min: f64) -> Kind {
    Kind::Float {
        min,
        max: NUMBER_MAX,
        above: false,
    }
}

const fn above(min: f64) -> Kind {
    Kind::Float {
        min,
        max: NUMBER_MAX,
        above: true,
    }
}

const fn share() -> Kind {
    Kind::Float {
        min: 0.0,
        max: 1.0,
        above: false,
    }
}
