//! Tasks that shut down the sockets of their worker or leave processes: no other item is lost.

use std::os::fd::RawFd;
use std::process::Command;
use std::time::Duration;

use procpool::StartMethod;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    answers_of_a_worker_that_must_go_count,
    closed_control_socket_costs_no_other_item,
    stubborn_child_of_a_task_ends_with_the_pool,
    shut_link_keeps_the_parent_asleep,
];

/// (link, control). Only the link's socket is also open in the parent. With rings there is no such socket.
fn sockets(parents: &[String]) -> (Option<RawFd>, RawFd) {
    let all = processes::descriptors(std::process::id()).into_iter();
    let sockets = all.filter(|(fd, target)| *fd > 2 && target.starts_with("socket:"));
    let (links, controls): (Vec<_>, Vec<_>) = sockets.partition(|(_, target)| parents.contains(target));
    (links.first().map(|(fd, _)| *fd), controls[0].0)
}

fn own_targets() -> Vec<String> {
    processes::descriptors(std::process::id()).into_iter().map(|(_, target)| target).collect()
}

/// The worker shuts its control socket down for writing, so it is killed; its answers still count.
fn answers_of_a_worker_that_must_go_count(method: StartMethod) {
    for round in 0..20 {
        let pool = stage::pool(method, 2);
        stage::until_all_work(&pool);
        let (book, targets) = (Notebook::new(), own_targets());
        let items = (0..40u32).map(|x| (x, book.path(), targets.clone()));
        let results = pool.chunk_size(5).map_results(items, |(x, book, targets)| {
            stage::note(&book, x);
            if x == 12 && stage::first_to_claim(&format!("{book}.claim")) {
                sys::shut_down(sockets(&targets).1, libc::SHUT_WR);
            }
            x
        });
        let results = results.unwrap();
        let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        let lost: Vec<usize> =
            results.iter().enumerate().filter(|(_, result)| result.is_err()).map(|(x, _)| x).collect();
        let mut run: Vec<u32> = book.lines().iter().map(|line| line.parse().unwrap()).collect();
        run.sort_unstable();
        assert!(lost.is_empty(), "round {round}: lost {errors:?}");
        let twice: Vec<u32> = run.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        assert!(twice.is_empty(), "round {round}: run twice {twice:?}, lost {lost:?}");
    }
}

fn closed_control_socket_costs_no_other_item(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::until_all_work(&pool);
    pool.apply((own_targets(),), |targets| nix::unistd::close(sockets(&targets).1).unwrap()).unwrap();
    pool.apply((1u8,), |_| std::thread::sleep(Duration::from_millis(1500))).unwrap();
}

fn stubborn_child_of_a_task_ends_with_the_pool(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let _handle = pool.apply_async((gate.path(), book.path()), |gate, book| {
        let script = "trap '' TERM; echo $$ >> $0; exec sleep 1000";
        let child = Command::new("sh").args(["-c", script, &book]).spawn().unwrap();
        std::mem::forget(child);
        stage::pass(&gate);
    });
    let child: u32 = book.wait_for(1)[0].parse().unwrap();
    pool.terminate();
    pool.join().unwrap();
    stage::until("the end of the task's child", || processes::ended(child));
}

fn shut_link_keeps_the_parent_asleep(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::until_all_work(&pool);
    let cpu = || nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap().user_time();
    let before = cpu();
    let _ = pool.apply((own_targets(),), |targets| {
        if let Some(link) = sockets(&targets).0 {
            sys::shut_down(link, libc::SHUT_RDWR);
        }
        std::thread::sleep(Duration::from_millis(1500));
    });
    let used = Duration::from_micros(
        u64::try_from((cpu() - before).tv_sec() * 1_000_000 + (cpu() - before).tv_usec()).unwrap(),
    );
    assert!(used < Duration::from_millis(200), "the parent used {used:?} of processor time while it waited");
}
