//! Where somebody is listened to: a port, or a socket file that is put in place whole and goes with its listener.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Type};

use crate::config::ListenAddress;

/// Connections that the kernel may hold for us.
pub const BACKLOG: i32 = 4096;

/// A bound listener that nobody is accepted from yet.
#[derive(Debug)]
pub struct Listener {
    /// Does not block.
    pub socket: Socket,
    /// Where it is, with the port that was chosen for `:0`.
    pub address: ListenAddress,
    /// Removes the socket file, if there is one, when it is dropped.
    pub file: Option<SocketFile>,
}

/// The two kinds of sockets.
#[derive(Debug)]
pub enum Socket {
    /// A port.
    Tcp(TcpListener),
    /// A socket file.
    Unix(UnixListener),
}

/// Who may connect to a socket file, besides root. Who cannot enter its folder cannot connect either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The user who runs the process.
    Owner,
    /// Every user of the machine, as with a port.
    Everyone,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everyone => 0o666,
        }
    }
}

/// Binds `address`; `access` is about a socket file. One that a killed process left behind is replaced.
///
/// # Errors
///
/// The address is taken, not ours to take, or names a file that is no socket. The caller says which address it was.
pub fn bind(address: &ListenAddress, access: Access) -> io::Result<Listener> {
    match address {
        ListenAddress::Tcp(address) => bind_tcp(*address),
        ListenAddress::Unix(path) => bind_unix(path, access),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Listener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let socket = TcpListener::from(socket);
    let address = ListenAddress::Tcp(socket.local_addr()?);
    Ok(Listener { socket: Socket::Tcp(socket), address, file: None })
}

fn bind_unix(path: &Path, access: Access) -> io::Result<Listener> {
    refuse_what_is_in_use(path)?;
    let socket = bind_aside(path, access)?;
    let file = SocketFile::at(path)?;
    Ok(Listener { socket: Socket::Unix(socket), address: ListenAddress::Unix(path.to_owned()), file: Some(file) })
}

fn refuse_what_is_in_use(path: &Path) -> io::Result<()> {
    let refused = |kind, why: &str| Err(io::Error::new(kind, why));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            refused(ErrorKind::AlreadyExists, "there is a file of another kind; name another path or move it away")
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => refused(ErrorKind::AddrInUse, "another process answers there"),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error),
        },
    }
}

/// Binds in a folder that nobody else can enter and moves the socket into place, so that there is no moment in which it
/// is open to others, or not there while an old one is replaced.
fn bind_aside(path: &Path, access: Access) -> io::Result<UnixListener> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Not the process's number: in containers that is 1 every time, and a killed one may have left its folder.
    let nest = parent.join(format!(".tg{:06x}", fastrand::u32(..1 << 24)));
    fs::DirBuilder::new().mode(0o700).create(&nest)?;
    let bound = bind_and_move(&nest.join("s"), path, access);
    let emptied = fs::remove_dir_all(&nest);
    let socket = bound?;
    emptied.map(|()| socket)
}

fn bind_and_move(from: &Path, to: &Path, access: Access) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(from)?)?;
    fs::set_permissions(from, Permissions::from_mode(access.mode()))?;
    socket.listen(BACKLOG)?;
    fs::rename(from, to)?;
    Ok(socket.into())
}

/// A socket file, removed when this is dropped, unless another process has put its own there by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(&fs::symlink_metadata(path)?) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            // Nothing to do about a failure: the next process replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> io::Result<Listener> {
        bind(&ListenAddress::Unix(path.to_owned()), Access::Owner)
    }

    #[test]
    fn a_port_of_its_own_choosing_is_told() {
        let listener = bind(&ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()), Access::Owner).unwrap();
        let ListenAddress::Tcp(address) = listener.address else { panic!("{listener:?}") };
        assert_ne!(address.port(), 0);
        let taken = bind(&ListenAddress::Tcp(address), Access::Owner).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_socket_file_is_as_open_as_it_should_be_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        for (access, mode) in [(Access::Owner, 0o600), (Access::Everyone, 0o666)] {
            let listener = bind(&ListenAddress::Unix(path.clone()), access).unwrap();
            assert_eq!(listener.address.to_string(), format!("unix:{}", path.display()));
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
            drop(listener);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let listener = unix(&path).expect("nobody answers at the old one");
        assert_eq!(unix(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).is_ok(), "the live one is left alone");
        drop(listener);
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        assert_eq!(unix(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_successors_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let listener = unix(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = unix(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }
}
