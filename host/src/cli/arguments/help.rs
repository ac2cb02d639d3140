//! The longer texts of `--help`.

pub const EXAMPLES: &str = "\
Examples:
  host run configs/quickstart.toml              train every method and compare them
  host plan configs/quickstart.toml             show what would be trained
  host fetch CONFIG                             bring its model and data from the hub
  host data configs/quickstart.toml             show the data as the model reads them
  host run configs/quickstart.toml --smoke      try every step on a few records
  host bench configs/quickstart.toml            measure what training costs here
  host score TASK --gold FILE --pred FILE       score predictions of any system
  host info                                     show what this machine and this build have
  host plugin list                              show the methods and tasks that there are
  host run --help                               the keys of a config

Exit codes: 0 done, 1 failed, 2 wrong arguments or config, 75 told to end (SIGTERM,
SIGUSR1): the same command goes on.
NO_COLOR turns colours off. HOST_PLUGIN_DIR names the folder of further plugins.";

pub const HUB_HELP: &str = "\
The cache is the one that Python's huggingface_hub uses, in the same layout. These
variables of the environment mean what they mean there:
  HF_HOME, HF_HUB_CACHE     where the cache is [default: ~/.cache/huggingface/hub]
  HF_HUB_OFFLINE=1          touch no network, and say what the cache lacks
  HF_ENDPOINT               the hub's address [default: https://huggingface.co]
  HF_TOKEN                  for gated and private repositories [default: the token file]

Examples:
  host fetch x.toml
  host fetch x.toml --set model.name=classla/bcms-bertic --set model.revision=main
  HF_HUB_OFFLINE=1 host run x.toml";

pub const SCORE_HELP: &str = r#"Predictions, in the order of the gold file's examples:
  - a run's predictions-SPLIT.jsonl, or any JSON lines with the task's predictions
    by name: {"label": 3} or {"label": "positive"}; null where there is none, which
    counts as wrong
  - plain lines with one prediction each: the label's number or its name; of a task
    with several predictions, separated by tabs

Examples:
  host score TASK --gold data/dev.txt --pred runs/x/cells/CELL/predictions-dev.jsonl
  host score TASK --gold data/dev.txt --pred answers.txt"#;

pub const CONFIG_HELP: &str = r#"A config:
  name = "x"                     # the run directory is runs/x; default: the file's name
  seeds = [42]                   # every method is trained once for each
  threads = 2                    # default: all cores
  device = "auto"                # a GPU where there is one, else cpu; cpu, cuda, cuda:1,
                                 # metal; candle-cpu computes on the CPU what a GPU would
  precision = "fp32"             # or tf32, on CUDA, or bf16, on a GPU
  methods = "all"                # or names: ["a", "b"]; or tables, below

  [model]
  path = "DIR"                   # a checkpoint in the hub's layout, or "embedded"
  name = "classla/bcms-bertic"   # instead of path: the hub's name; host fetch --help
  revision = "main"              # with name: a branch, a tag or a commit
  reinitialise = false           # its sizes and tokenizer with random weights

  [data]
  path = "DIR"                   # or "embedded:NAME"
  name = "OWNER/NAME"            # instead of path: a data set of the hub
  revision = "main"              # with name, as of the model
  files = { train = "a.txt" }    # instead of the task's own file names
  max_bad_records = 0            # wrong records of a split that are left out, and counted
  too_long = "cut"               # or "error": sequences that the model cannot read whole

  [task]
  name = "NAME"                  # all other keys are the task's: host plugin show NAME

  [training]                     # names and defaults of transformers' TrainingArguments, but
                                 # auto_find_batch_size is true and save_strategy "epoch",
                                 # which change no result, and per_device_eval_batch_size
                                 # is 32
  learning_rate, head_learning_rate (of what the task adds), num_train_epochs,
  max_steps (-1: the epochs decide), per_device_train_batch_size,
  train_batch_tokens, per_device_eval_batch_size, gradient_accumulation_steps,
  weight_decay, adam_beta1, adam_beta2, adam_epsilon, max_grad_norm,
  lr_scheduler_type (linear, constant, cosine), warmup_ratio, warmup_steps,
  early_stopping_patience, dropout, auto_find_batch_size,
  save_strategy (epoch, steps, no: when a checkpoint is written from which the same
  command goes on; where it is told to end, always), save_steps

  [methods.NAME]                 # a row of the table; all other keys are the method's
  plugin = "PLUGIN"              # default: NAME
  [methods.NAME.training]        # overrides of [training]; --set training.KEY=VALUE wins

Examples:
  host run configs/quickstart.toml
  host run configs/quickstart.toml --seed 1 --seed 2 --seed 3 --out runs/seeds
  host run x.toml --set model.path=models/bert --set data.path=data/reviews
  host run x.toml --set model.name=google/electra-small-discriminator
  host run x.toml --method NAME --set methods.NAME.training.learning_rate=1e-3"#;
