//! Which rank a process is, from what launchers leave in the environment.

use std::collections::BTreeMap;

use seqpar::rendezvous::launch::{Explicit, Launch, Launcher, detect};

const TORCHRUN: &str = "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 GROUP_RANK=1 MASTER_ADDR=node0 \
    MASTER_PORT=29500 TORCHELASTIC_RUN_ID=abc TORCHELASTIC_RESTART_COUNT=2 TORCHELASTIC_USE_AGENT_STORE=True";
const OPEN_MPI: &str = "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_RANK=1 \
    OMPI_COMM_WORLD_LOCAL_SIZE=4 OMPI_COMM_WORLD_NODE_RANK=1 PMIX_NAMESPACE=prterun-n-77@1 PMIX_RANK=5";
const SLURM: &str = "SLURM_STEP_ID=3 SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_LOCALID=1 SLURM_JOB_ID=10000 \
    SLURM_STEP_NODELIST=gpu[03-04]";
const PMI: &str = "PMI_RANK=5 PMI_SIZE=8 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=4";

fn variables(text: &str) -> BTreeMap<String, String> {
    text.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn found(text: &str) -> Launch {
    detect(&variables(text), &Explicit::default()).unwrap().unwrap()
}

fn refused(text: &str) -> String {
    detect(&variables(text), &Explicit::default()).unwrap_err().to_string()
}

#[test]
fn each_launcher_alone() {
    let launch = Launch {
        launcher: Launcher::Torchrun,
        rank: 5,
        world: 8,
        local_rank: Some(1),
        local_world: Some(4),
        address: Some(("node0".into(), 29500)),
        serves_store: true,
        job: Some("torchrun.abc.2.29500".into()),
    };
    assert_eq!(found(TORCHRUN), launch);
    let open_mpi = Launch {
        launcher: Launcher::OpenMpi,
        address: None,
        serves_store: false,
        job: Some("openmpi.prterun-n-77@1".into()),
        ..launch.clone()
    };
    assert_eq!(found(OPEN_MPI), open_mpi);
    // The port is JAX's: 10000 % 4096 + 61440.
    let slurm = Launch {
        launcher: Launcher::Slurm,
        local_world: None,
        address: Some(("gpu03".into(), 63248)),
        job: Some("slurm.10000.3.0".into()),
        ..open_mpi.clone()
    };
    assert_eq!(found(SLURM), slurm);
    assert_eq!(found(&format!("{SLURM} SLURM_RESTART_COUNT=1")).job.unwrap(), "slurm.10000.3.1");
    assert_eq!(found(PMI), Launch { launcher: Launcher::Pmi, job: None, ..open_mpi });
}

#[test]
fn no_launcher() {
    for text in [
        "",
        "LOCAL_RANK=0",
        "MASTER_ADDR=a MASTER_PORT=1",
        "RANK= WORLD_SIZE=",
        "SLURM_JOB_ID=1 SLURM_NTASKS=8 SLURM_PROCID=0",
    ] {
        assert_eq!(detect(&variables(text), &Explicit::default()).unwrap(), None, "{text}");
    }
}

#[test]
fn slurm_counts_only_inside_a_step_of_several_tasks() {
    let batch = SLURM.replace("SLURM_STEP_ID=3", "");
    assert_eq!(detect(&variables(&batch), &Explicit::default()).unwrap(), None);
    let single = "SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=1";
    assert_eq!(detect(&variables(single), &Explicit::default()).unwrap(), None);
    assert_eq!(found(&format!("{single} {TORCHRUN}")).launcher, Launcher::Torchrun);
}

#[test]
fn the_first_counts_where_all_agree() {
    assert_eq!(found(&format!("{TORCHRUN} {OPEN_MPI} {SLURM} {PMI}")).launcher, Launcher::Torchrun);
    assert_eq!(found(&format!("{OPEN_MPI} {SLURM} {PMI}")).launcher, Launcher::OpenMpi);
    assert_eq!(found(&format!("{SLURM} {PMI}")).launcher, Launcher::Slurm);
}

#[test]
fn launchers_that_disagree_are_refused() {
    let by_hand = "RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 MASTER_ADDR=a MASTER_PORT=1";
    for (text, words) in [
        (format!("{by_hand} {SLURM}"), "torchrun says rank 0 of 1, Slurm says rank 5 of 8"),
        (format!("{by_hand} {OPEN_MPI}"), "torchrun says rank 0 of 1, Open MPI says rank 5 of 8"),
        (
            format!("{} {SLURM}", OPEN_MPI.replace("RANK=5", "RANK=4")),
            "Open MPI says rank 4 of 8, Slurm says rank 5 of 8",
        ),
        (format!("{SLURM} {}", PMI.replace("SIZE=8", "SIZE=16")), "Slurm says rank 5 of 8, PMI says rank 5 of 16"),
        (format!("{} {SLURM}", TORCHRUN.replace("WORLD_SIZE=8", "WORLD_SIZE=6")), "torchrun says rank 5 of 6, Slurm"),
        (format!("{SLURM} RANK=1"), "Slurm says rank 5 of 8, but RANK=1"),
        (format!("{OPEN_MPI} WORLD_SIZE=1"), "Open MPI says rank 5 of 8, but WORLD_SIZE=1"),
    ] {
        let error = refused(&text);
        assert!(error.contains(words) && error.contains("unset"), "{error}");
    }
}

#[test]
fn agents_that_slurm_started_are_no_disagreement() {
    let agents = "SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_JOB_ID=1";
    assert_eq!((found(&format!("{TORCHRUN} {agents}")).rank, found(&format!("{OPEN_MPI} {agents}")).rank), (5, 5));
    // Without an agent's mark, torchrun's names were set by hand, and mean the same ranks.
    let by_hand = TORCHRUN.replace("TORCHELASTIC_RUN_ID=abc", "");
    assert!(refused(&format!("{by_hand} {agents}")).contains("torchrun says rank 5 of 8, Slurm says rank 1 of 2"));
}

#[test]
fn half_a_set_is_refused() {
    let error = refused("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a");
    assert!(error.contains("RANK, WORLD_SIZE, MASTER_ADDR set but not LOCAL_RANK, MASTER_PORT"), "{error}");
    assert!(refused("RANK=0").contains("RANK set but not WORLD_SIZE"));
    assert!(refused("PMIX_RANK=3").contains("PMIX_RANK=3 but no world size"));
    assert_eq!(found(&format!("{SLURM} RANK=5")).launcher, Launcher::Slurm);
}

#[test]
fn numbers_that_are_none_are_refused() {
    for (from, to, words) in [
        ("RANK=5", "RANK=x", "RANK=x is not a number"),
        ("RANK=5", "RANK=-1", "RANK=-1 is not a number"),
        ("MASTER_PORT=29500", "MASTER_PORT=99999", "MASTER_PORT=99999 is not a number"),
        ("RANK=5", "RANK=8", "rank 8 of 8"),
        ("LOCAL_RANK=1", "LOCAL_RANK=4", "local rank 4 of 4"),
    ] {
        let error = refused(&TORCHRUN.replacen(from, to, 1));
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn explicit_options_win() {
    let explicit = |rank, world| Explicit { rank, world, ..Explicit::default() };
    let launch =
        detect(&variables(&format!("{TORCHRUN} SLURM_STEP_ID=x")), &explicit(Some(1), Some(2))).unwrap().unwrap();
    assert_eq!((launch.launcher, launch.rank, launch.world, launch.local_rank), (Launcher::Explicit, 1, 2, None));
    for half in [explicit(Some(1), None), explicit(None, Some(2))] {
        assert!(detect(&variables(TORCHRUN), &half).unwrap_err().to_string().contains("together"));
    }
    assert!(detect(&BTreeMap::new(), &explicit(Some(2), Some(2))).unwrap_err().to_string().contains("rank 2 of 2"));
    let some = Explicit {
        local_rank: Some(3),
        address: Some(("other".into(), 1)),
        job: Some("mine".into()),
        ..Explicit::default()
    };
    let launch = detect(&variables(TORCHRUN), &some).unwrap().unwrap();
    assert_eq!((launch.rank, launch.local_rank, launch.job.as_deref()), (5, Some(3), Some("mine")));
    assert_eq!(
        (launch.address, launch.serves_store),
        (Some(("other".into(), 1)), false),
        "the agent's store is elsewhere"
    );
}

#[test]
fn a_local_rank_beyond_the_devices_is_an_error_and_not_a_remainder() {
    let launch = found(TORCHRUN);
    assert_eq!(launch.device(2).unwrap(), 1);
    let error = launch.device(1).unwrap_err().to_string();
    assert!(error.contains("local rank 1 but 1 visible devices"), "{error}");
    assert!(launch.device(0).is_err());
    let unknown = Launch { local_rank: None, ..launch };
    assert!(unknown.device(8).unwrap_err().to_string().contains("name its device"));
    assert_eq!(Launch { rank: 0, world: 1, ..unknown }.device(1).unwrap(), 0);
}
