//! The batch script, with stand-ins for Slurm's programs.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{cells, experiment, fails, root, succeeds};

/// A program of that name in a folder, a shell script.
fn stand_in(folder: &Path, name: &str, script: &str) {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The batch script with arguments, in a folder that has the stand-ins, in a job or not.
fn script(folder: &Path, arguments: &[&str], job: bool) -> Command {
    let mut command = Command::new("bash");
    command.arg(root().join("slurm/run.sbatch")).args(arguments).current_dir(folder);
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env("HOST_BINARY", env!("CARGO_BIN_EXE_host"));
    for name in ["SLURM_JOB_ID", "SLURM_JOB_GPUS", "SLURM_SUBMIT_DIR", "CUDA_VISIBLE_DEVICES"] {
        command.env_remove(name);
    }
    if job {
        command.env("SLURM_JOB_ID", "7");
    }
    command
}

/// The batch script asks for a GPU where the config or the command line wants
/// CUDA, and does not train on the CPU of a job that has none.
#[test]
fn the_batch_script_asks_for_a_gpu_where_one_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["sbatch", "srun"] {
        stand_in(folder.path(), name, &format!("echo \"{name} $*\""));
    }
    for (name, text) in [("gpu.toml", "device = \"cuda:0\"\n"), ("cpu.toml", "# device = \"cuda\"\n")] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let script = |arguments: &[&str], job: bool| script(folder.path(), arguments, job);
    let submitted = |arguments: &[&str]| succeeds(script(arguments, false)).0;
    assert!(submitted(&["gpu.toml", "--seed", "1"]).starts_with("sbatch --gpus=1 "));
    assert!(submitted(&["gpu.toml", "--seed", "1"]).trim().ends_with("run.sbatch gpu.toml --seed 1"));
    assert!(submitted(&["cpu.toml", "--device", "cuda"]).starts_with("sbatch --gpus=1 "));
    assert!(submitted(&["cpu.toml", "--device=cuda:1"]).starts_with("sbatch --gpus=1 "));
    assert!(!submitted(&["cpu.toml"]).contains("--gpus"));
    assert!(!submitted(&["gpu.toml", "--device", "cpu"]).contains("--gpus"));
    let text = fails(script(&["gpu.toml"], true), 2);
    assert!(text.contains("the job has no GPU") && text.contains("--gpus=1"), "{text}");
    let mut command = script(&["gpu.toml"], true);
    command.env("CUDA_VISIBLE_DEVICES", "0");
    assert!(succeeds(command).0.contains("srun --ntasks=1"));
    assert!(succeeds(script(&["cpu.toml"], true)).0.contains("srun --ntasks=1"));
}

/// Stand-ins for srun, which becomes the program, and for scontrol, which writes down what
/// it is asked for.
fn of_a_job(folder: &Path, state: &str, requeue: &str) {
    stand_in(folder, "srun", "shift\nexec \"$@\"");
    let scontrol = format!(
        "echo \"scontrol $*\" >> asked\ncase $1 in show) echo JobState={state};; *) {requeue};; esac"
    );
    stand_in(folder, "scontrol", &scontrol);
}

/// Shortly before its time is over a job saves and is queued again, and the next one goes on.
#[test]
fn a_job_whose_time_is_over_is_queued_again_and_goes_on() {
    let queued = "scontrol show job 7\nscontrol requeue 7\n";
    let shown = "scontrol show job 7\n";
    let said = "job 7 is queued again, and goes on where it was";
    let cannot = "the job cannot be queued again; the same sbatch command goes on where it was";
    for (state, requeue, asked, words) in [
        ("RUNNING", "exit 0", queued, said),
        ("RUNNING", "exit 1", queued, cannot),
        // Somebody has cancelled it meanwhile.
        ("CANCELLED", "exit 0", shown, "interrupted: the same command goes on"),
    ] {
        let folder = experiment(|config| config.replace("num_train_epochs = 2", "num_train_epochs = 150"));
        let path = folder.path();
        of_a_job(path, state, requeue);
        let mut command = script(path, &["experiment.toml", "--method", "lora"], true);
        command.env("XDG_DATA_HOME", path.join("data-home")).env("NO_COLOR", "1");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("epoch 2:")));
        // As `--signal=B:USR1@120` does, to the script alone.
        let mut kill = Command::new("kill");
        kill.args(["-USR1", &child.id().to_string()]);
        succeeds(kill);
        let rest = lines.collect::<Vec<_>>().join("\n");
        let output = child.wait_with_output().unwrap();
        let said = rest + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(75), "{said}");
        assert!(said.contains("saved after step ") && said.contains(words), "{said}");
        assert_eq!(fs::read_to_string(path.join("asked")).unwrap(), asked, "{said}");
        assert!(cells(&path.join("runs/experiment")).is_empty());
        let lock = fs::read_to_string(path.join("runs/experiment/lock")).unwrap();
        assert_eq!(lock, "", "on a file system without locks the next node would be refused");
        if state == "CANCELLED" {
            let (_, log) = succeeds(script(path, &["experiment.toml", "--method", "lora"], true));
            assert!(log.contains("goes on after step "), "{log}");
            assert_eq!(fs::read_to_string(path.join("asked")).unwrap(), asked, "a job that is done");
        }
    }
}
