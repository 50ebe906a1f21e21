//! stub main
use tidegate::app::{App, Signal};
use tokio::signal::unix::{SignalKind, signal};
fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let path = std::env::args().skip_while(|a| a != "-c").nth(1).unwrap();
    let app = App::bind(path.as_ref()).unwrap_or_else(|e| {
        eprintln!("{e}");
        std::process::exit(1)
    });
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let (tx, rx) = tokio::sync::mpsc::channel(4);
        let mut term = signal(SignalKind::terminate()).unwrap();
        let mut hup = signal(SignalKind::hangup()).unwrap();
        tokio::spawn(async move { loop { tokio::select! { _ = term.recv() => { tx.send(Signal::Leave).await.ok(); } _ = hup.recv() => { tx.send(Signal::Reload).await.ok(); } } } });
        app.run(rx).await.unwrap();
    });
}
