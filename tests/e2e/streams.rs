//! Streams through apiserver and kubelet: logs, exec, attach, port-forward, as stock kubectl asks.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use tests::{cluster, eventually};

use crate::tour::{IMAGE, start_shell};

#[test]
fn logs_exec_and_port_forward_work() {
    let cluster = cluster!(1);
    start_shell(&cluster);
    cluster.kubectl(&["run", "web", &format!("--image={IMAGE}")]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=120s"]);

    exec(&cluster);
    forward(&cluster);
    logs(&cluster);
}

fn exec(cluster: &tests::Cluster) {
    let output = cluster.kubectl_output(&["exec", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7), "the exit code comes through");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("err\n"));

    let echoed = cluster.kubectl_with(&["exec", "-i", "shell", "--", "cat"], "through stdin\n");
    assert_eq!(echoed, "through stdin\n", "stdin's end ends cat");

    let big = "x".repeat(1 << 20);
    let counted = cluster.kubectl_with(&["exec", "-i", "shell", "--", "wc", "-c"], &big);
    assert_eq!(counted.trim(), "1048576", "nothing is lost on the way");

    let missing = cluster.kubectl_output(&["exec", "shell", "--", "/no/such/program"]);
    assert!(!missing.status.success());
}

fn forward(cluster: &tests::Cluster) {
    let mut forward = cluster.kubectl_spawn(&["port-forward", "pod/web", ":8080"]);
    let mut output = BufReader::new(forward.stdout.take().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("kubectl says where it listens");
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    for _ in 0..3 {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("kubectl listens");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.ends_with("web\n"), "{answer}");
    }
    let _ = forward.kill();
    let _ = forward.wait();
}

fn logs(cluster: &tests::Cluster) {
    let all = cluster.kubectl(&["logs", "web"]);
    assert!(all.starts_with("web listens on 8080\n"), "{all}");
    assert_eq!(cluster.kubectl(&["logs", "web", "--tail=1"]).lines().count(), 1);

    let mut follower = cluster.kubectl_spawn(&["logs", "-f", "web", "--tail=0"]);
    let mut lines = BufReader::new(follower.stdout.take().expect("piped")).lines();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let line = std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("a line is followed", || {
                let _ = cluster.kubectl_output(&[
                    "get",
                    "--raw",
                    "/api/v1/namespaces/default/pods/web:8080/proxy/followed",
                ]);
                stop.load(std::sync::atomic::Ordering::Relaxed).then_some(())
            });
        });
        let line = lines.next().expect("a line").expect("text");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        line
    });
    assert!(line.ends_with("/followed"), "{line}");
    let _ = follower.kill();
    let _ = follower.wait();

    let _ = cluster.kubectl_output(&["get", "--raw", "/api/v1/namespaces/default/pods/web:8080/proxy/exit?3"]);
    eventually("the container was restarted", || {
        let count =
            cluster.kubectl(&["get", "pod", "web", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"]);
        (count == "1").then_some(())
    });
    let previous = cluster.kubectl(&["logs", "web", "--previous"]);
    assert!(previous.contains("/exit?3"), "{previous}");
}
