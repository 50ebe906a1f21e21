//! How connections of HTTP/2 end: after what runs on them.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tidegate::app::Signal;
use tokio::sync::Notify;

use super::before;
use crate::support::backend::{Backend, ok};
use crate::support::http2::{self, Client, Exchange, get, read, run, send};
use crate::support::{PATIENCE, Tidegate, eventually, eventually_here};

#[test]
fn a_process_that_leaves_lets_streams_finish_and_takes_no_new_ones() {
    let drains = Arc::new(Notify::new());
    let may_finish = Arc::clone(&drains);
    let backend = http2::Backend::doing(move |mut exchange: Exchange| {
        let may_finish = Arc::clone(&may_finish);
        async move {
            let mut answer = exchange.respond.send_response(http::Response::new(()), false).unwrap();
            send(&mut answer, "begun,".into(), false).await.unwrap();
            may_finish.notified().await;
            answer.send_data(Bytes::from("finished"), true).unwrap();
        }
    });
    let mut tidegate = Tidegate::start(&before(&backend));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let (response, _) = client.begin(get("/"), true).await;
        let response = response.await.unwrap();
        tidegate.signal_from_here(Signal::Leave).await;
        eventually_here("nobody new is let in", || TcpStream::connect(tidegate.address).is_err()).await;
        drains.notify_one();
        let answer = read(response).await.unwrap();
        assert_eq!(answer.text(), "begun,finished");
        let late = async {
            let mut sender = client.sender.clone().ready().await?;
            sender.send_request(get("/"), true)?.0.await
        };
        assert!(late.await.is_err(), "whoever comes now goes elsewhere");
        client.driver.await.unwrap().unwrap();
    });
    tidegate.wait();
}

#[test]
fn an_idle_connection_does_not_keep_a_process_that_leaves() {
    let backend = Backend::answering(|_| ok(&[], b"hello"));
    let mut tidegate = Tidegate::before(&backend);
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        client.get("/").await;
        tidegate.signal_from_here(Signal::Leave).await;
        client.driver.await.unwrap().unwrap();
    });
    tidegate.wait();
}

#[test]
fn what_runs_for_too_long_is_cut_off() {
    let backend = http2::Backend::doing(|mut exchange: Exchange| async move {
        let _until_the_end = std::future::poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
    });
    let config = "listen: 127.0.0.1:0\nadmin: { address: 127.0.0.1:0 }\nworkers: 1\n\
                  shutdown: { readiness_delay: 0s, drain_timeout: 200ms }\n";
    let mut tidegate = Tidegate::start_whole(&format!("{config}{}", before(&backend)));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let (response, _) = client.begin(get("/"), true).await;
        eventually_here("it runs", || !backend.heads().is_empty()).await;
        tidegate.signal_from_here(Signal::Leave).await;
        assert!(response.await.is_err());
    });
    tidegate.wait();
}

#[test]
fn a_backend_that_does_not_begin_keeps_a_process_that_leaves_for_no_longer_than_its_timeout() {
    let backend = Backend::scripted(|connection| while connection.read_more().is_some() {});
    let config = format!(
        "listen: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 1\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 1m }}\nroutes: [{{ backend: only }}]\nbackends:\n  \
         only: {{ endpoints: ['{}'], protocol: h2, timeouts: {{ connect: 1s }} }}\n",
        backend.url()
    );
    let mut tidegate = Tidegate::start_whole(&config);
    let mut client = tidegate.client();
    client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n");
    eventually("it is spoken to", || backend.text().starts_with("PRI"));
    let begun = Instant::now();
    tidegate.signal(Signal::Leave);
    assert_eq!(client.answer().status, 504);
    drop(client);
    tidegate.wait();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}
