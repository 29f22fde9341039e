//! The tables of iptables-legacy, through the kernel's socket options (`linux/netfilter_ipv4/ip_tables.h`,
//! `linux/netfilter_ipv6/ip6_tables.h`).
//!
//! A socket option that names a table loads its module and creates the table, whose hooks every packet
//! passes from then on. Therefore the names of the existing tables are read first.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netfilter::iptables::{ApplyError, Command, Match, ParseError, Restore, TableSet, Target};
use netfilter::iptables_legacy::{Blob, HOOKS, Info, Malformed, Origin, RawTable};
use netfilter::iptables_nft::SetIndex;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Table;
use crate::ipset::IpSets;
use crate::{Family, module, netlink};

/// `XT_LOCK_NAME` of iptables.
const LOCK_FILE: &str = "/run/xtables.lock";
/// The longest wait for the lock; the tools' wait of kube-proxy.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// The pause between two attempts to take the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// How many times a table is read again if another program changes it meanwhile.
const ATTEMPTS: u32 = 20;

// `IPT_SO_*` and `IP6T_SO_*` have the same numbers.
const SO_SET_REPLACE: libc::c_int = 64;
const SO_SET_ADD_COUNTERS: libc::c_int = 65;
const SO_GET_INFO: libc::c_int = 64;
const SO_GET_ENTRIES: libc::c_int = 65;

/// `XT_TABLE_MAXNAMELEN`, with the NUL.
const TABLE_NAME: usize = 32;
/// The size of `struct ipt_get_entries` and `struct xt_counters_info` before their arrays.
const ENTRIES_HEADER: usize = 40;
/// The size of `struct ipt_replace` before the entries.
const REPLACE_HEADER: usize = 96;
/// The size of `struct xt_counters`.
const COUNTERS: usize = 16;

/// The step of the exchange, in errors.
const REPLACE: &str = "replacing it";

/// A failed operation on a table.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// A system call failed.
    #[error("legacy {family} table {table}: {step}: {errno}")]
    System {
        /// The family.
        family: Family,
        /// The table.
        table: Table,
        /// The step.
        step: &'static str,
        /// The kernel's reason.
        errno: Errno,
    },
    /// No socket can be opened.
    #[error("opening a socket for legacy {family} tables: {errno}")]
    Socket {
        /// The family.
        family: Family,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The kernel's answer cannot be decoded.
    #[error("legacy {family} table {table}: {cause}")]
    Malformed {
        /// The family.
        family: Family,
        /// The table.
        table: Table,
        /// The error in the answer.
        cause: Malformed,
    },
    /// The lock file cannot be opened.
    #[error("{}: {cause}", path.display())]
    LockFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        cause: io::Error,
    },
    /// Another program kept the lock.
    #[error("{} is locked by another program", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The input of a restore cannot be parsed.
    #[error(transparent)]
    Input(#[from] ParseError),
    /// A command cannot be applied to the table.
    #[error(transparent)]
    Refused(#[from] ApplyError),
    /// The names of ipsets cannot be read.
    #[error(transparent)]
    Sets(#[from] netlink::Error),
    /// Other programs kept changing the table.
    #[error("legacy {family} table {table} was changed by other programs while it was being read")]
    Busy {
        /// The family.
        family: Family,
        /// The table.
        table: Table,
    },
}

/// A restore that did not succeed. Each table takes effect as a whole or not at all.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct LegacyRestoreError {
    /// The cause.
    pub cause: LegacyError,
    /// The number of tables of the input that were committed before.
    pub tables_committed: usize,
}

impl LegacyRestoreError {
    /// Whether the content was rejected, so that the same input would fail again.
    pub fn is_rejection(&self) -> bool {
        match &self.cause {
            LegacyError::Input(_) | LegacyError::Refused(_) => true,
            LegacyError::System { step, errno, .. } => {
                *step == REPLACE && !matches!(errno, Errno::ENOMEM | Errno::EPERM | Errno::EINTR)
            }
            _ => false,
        }
    }
}

/// Return the tables that exist, in the order of [`Table::ALL`]. Tables of other names are left out.
pub fn tables(family: Family) -> Vec<Table> {
    let file = match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let names = std::fs::read_to_string(file).unwrap_or_default();
    let exists = |table: &Table| names.lines().any(|name| name == table.name());
    Table::ALL.into_iter().filter(exists).collect()
}

/// The legacy tables of one family in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Legacy {
    family: Family,
    socket: OwnedFd,
    lock_file: PathBuf,
    lock_wait: Duration,
}

impl Legacy {
    /// Open a socket.
    ///
    /// # Errors
    /// [`LegacyError::Socket`].
    pub fn open(family: Family) -> Result<Self, LegacyError> {
        let domain = match family {
            Family::Ipv4 => AddressFamily::Inet,
            Family::Ipv6 => AddressFamily::Inet6,
        };
        let socket = socket(domain, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
        Ok(Self {
            family,
            socket: socket.map_err(|errno| LegacyError::Socket { family, errno })?,
            // As the tools do since 1.8.3.
            lock_file: std::env::var_os("XTABLES_LOCKFILE")
                .map_or_else(|| LOCK_FILE.into(), PathBuf::from),
            lock_wait: LOCK_WAIT,
        })
    }

    /// Use another lock file than `/run/xtables.lock`, and wait for it for another time than 5 s.
    #[must_use]
    pub fn with_lock(mut self, path: impl Into<PathBuf>, wait: Duration) -> Self {
        self.lock_file = path.into();
        self.lock_wait = wait;
        self
    }

    /// Return a table; `None` if it does not exist.
    ///
    /// # Errors
    /// See [`LegacyError`].
    pub fn read(&self, table: Table) -> Result<Option<RawTable>, LegacyError> {
        if !tables(self.family).contains(&table) {
            return Ok(None);
        }
        for _ in 0..ATTEMPTS {
            match self.read_once(table) {
                // The size of the table changed.
                Err(LegacyError::System {
                    errno: Errno::EAGAIN,
                    ..
                }) => {}
                other => return other.map(|(raw, _)| Some(raw)),
            }
        }
        Err(self.busy(table))
    }

    /// Create a table if it does not exist, and load its modules, which needs `CAP_SYS_MODULE` if
    /// `ip_tables` or `ip6_tables` is not loaded yet.
    ///
    /// # Errors
    /// See [`LegacyError`]; `ENOPROTOOPT` if the module cannot be loaded.
    pub fn create(&self, table: Table) -> Result<(), LegacyError> {
        let read = self.read_once(table);
        if !matches!(
            &read,
            Err(LegacyError::System {
                errno: Errno::ENOPROTOOPT,
                ..
            })
        ) {
            return read.map(drop);
        }
        module::load_legacy_iptables(self.family);
        self.read_once(table).map(drop)
    }

    /// Remove the chains whose name `is_removed`, their rules, and all rules that jump to them; built-in
    /// chains stay. Other rules keep their bytes and counters. Take the xtables lock as iptables does.
    /// Return the number of removed chains; 0 for a table that does not exist.
    ///
    /// # Errors
    /// See [`LegacyError`]. The table is unchanged.
    pub fn remove_chains(
        &self,
        table: Table,
        is_removed: &dyn Fn(&[u8]) -> bool,
    ) -> Result<usize, LegacyError> {
        let has_some = |raw: &RawTable| {
            let mut chains = raw.chains.iter().filter(|chain| chain.hook.is_none());
            chains.any(|chain| is_removed(&chain.name))
        };
        if self.read(table)?.is_none_or(|raw| !has_some(&raw)) {
            return Ok(0);
        }
        let mut removed = 0;
        let _lock = self.lock()?;
        self.change(table, &mut |raw| {
            removed = raw.remove_chains(is_removed);
            Ok(())
        })?;
        Ok(removed)
    }

    /// Return the rules of tables as `iptables-legacy-save` prints them; nothing for tables that do not
    /// exist. Also return what could not be decoded.
    ///
    /// # Errors
    /// See [`LegacyError`].
    pub fn table_set(&self, tables: &[Table]) -> Result<(TableSet, Vec<String>), LegacyError> {
        let mut set = TableSet::new(self.family);
        let mut problems = Vec::new();
        let mut sets = None;
        for table in tables {
            if let Some(raw) = self.read(*table)? {
                let sets = match &mut sets {
                    Some(sets) => sets,
                    None => sets.insert(IpSets::open()?.index()?),
                };
                let (state, found) = raw.table_state(sets);
                set.tables.insert(*table, state);
                let found = found.into_iter();
                problems.extend(found.map(|what| format!("legacy table {table}: {what}")));
            }
        }
        Ok((set, problems))
    }

    /// Return the text of tables as `iptables-legacy-save` prints it without counters; empty if none of
    /// them exists. Rules that cannot be decoded are left out.
    ///
    /// # Errors
    /// See [`LegacyError`].
    pub fn save(&self, tables: &[Table]) -> Result<String, LegacyError> {
        let (mut set, problems) = self.table_set(tables)?;
        for problem in problems {
            tracing::debug!(family = %self.family, %problem, "Skipped a rule");
        }
        let chains = set.tables.values_mut();
        for chain in chains.flat_map(|table| table.chains.values_mut()) {
            chain.rules.iter_mut().for_each(|rule| rule.counters = None);
        }
        Ok(set.to_string())
    }

    /// Apply `input` like `iptables-legacy-restore --noflush`, with the counters that it contains: chains
    /// that it declares are emptied and filled, all others are left alone. A table that does not exist is
    /// created. The tables of the input are committed one after the other, under the xtables lock.
    ///
    /// # Errors
    /// See [`LegacyRestoreError`].
    pub fn restore(&self, input: &str) -> Result<(), LegacyRestoreError> {
        let mut tables_committed = 0;
        let restored = self.restore_counting(input, &mut tables_committed);
        restored.map_err(|cause| LegacyRestoreError {
            cause,
            tables_committed,
        })
    }

    fn restore_counting(&self, input: &str, committed: &mut usize) -> Result<(), LegacyError> {
        let restore = Restore::parse(self.family, input)?;
        let sets = match names_sets(&restore) {
            true => IpSets::open()?.index()?,
            false => SetIndex::default(),
        };
        let _lock = self.lock()?;
        for section in &restore.tables {
            let change = &mut |raw: &mut RawTable| Ok(raw.apply(section, &sets)?);
            self.change(section.table, change)?;
            *committed += 1;
        }
        Ok(())
    }

    /// Replace a table by a changed one; the caller has the xtables lock. Entries that were read keep
    /// their counters. `change` is called again if the table changed meanwhile.
    fn change(
        &self,
        table: Table,
        change: &mut dyn FnMut(&mut RawTable) -> Result<(), LegacyError>,
    ) -> Result<(), LegacyError> {
        for _ in 0..ATTEMPTS {
            let done = self.read_once(table).and_then(|(mut raw, entries)| {
                change(&mut raw)?;
                self.replace(table, &raw.encode(), entries)
            });
            match done {
                // Programs that ignore the lock may change the table too.
                Err(LegacyError::System {
                    errno: Errno::EAGAIN,
                    ..
                }) => {}
                other => return other,
            }
        }
        Err(self.busy(table))
    }

    /// Return the table and the number of its entries.
    fn read_once(&self, table: Table) -> Result<(RawTable, u32), LegacyError> {
        let malformed = |cause| LegacyError::Malformed {
            family: self.family,
            table,
            cause,
        };
        let mut bytes = vec![0; Info::LEN];
        put_name(&mut bytes, table);
        self.get(table, "reading its description", SO_GET_INFO, &mut bytes)?;
        let info = Info::decode(&bytes).map_err(malformed)?;
        let mut bytes = vec![0; ENTRIES_HEADER + info.size as usize];
        put_name(&mut bytes, table);
        bytes[TABLE_NAME..TABLE_NAME + 4].copy_from_slice(&info.size.to_ne_bytes());
        self.get(table, "reading its entries", SO_GET_ENTRIES, &mut bytes)?;
        let blob = bytes.get(ENTRIES_HEADER..).unwrap_or_default();
        let raw = RawTable::decode(self.family, &info, blob).map_err(malformed)?;
        Ok((raw, info.entries))
    }

    /// Write a table that replaces one of `entries` entries, and add the counters that these had at the
    /// moment of the exchange.
    fn replace(&self, table: Table, blob: &Blob, entries: u32) -> Result<(), LegacyError> {
        let mut counters = vec![0; entries as usize * COUNTERS];
        let mut bytes = vec![0; REPLACE_HEADER];
        bytes.reserve_exact(blob.bytes.len());
        put_name(&mut bytes, table);
        let info = &blob.info;
        let mut fields = vec![info.valid_hooks, info.entries, info.size];
        fields.extend(info.hook_entry);
        fields.extend(info.underflow);
        fields.push(entries);
        debug_assert_eq!(fields.len(), 4 + 2 * HOOKS);
        for (place, field) in bytes[TABLE_NAME..].chunks_exact_mut(4).zip(&fields) {
            place.copy_from_slice(&field.to_ne_bytes());
        }
        let pointer = counters.as_mut_ptr().expose_provenance() as u64;
        bytes[REPLACE_HEADER - 8..].copy_from_slice(&pointer.to_ne_bytes());
        bytes.extend_from_slice(&blob.bytes);
        // SAFETY: `bytes` contains a pointer to `counters`, which has room for `entries` structures and
        // lives until the call returns.
        unsafe { self.set(table, REPLACE, SO_SET_REPLACE, &bytes)? };
        let kept = kept_counters(blob, &counters);
        if kept.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let mut bytes = vec![0; ENTRIES_HEADER];
        put_name(&mut bytes, table);
        bytes[TABLE_NAME..TABLE_NAME + 4].copy_from_slice(&info.entries.to_ne_bytes());
        bytes.extend_from_slice(&kept);
        // SAFETY: the structure contains no pointers.
        unsafe { self.set(table, "restoring its counters", SO_SET_ADD_COUNTERS, &bytes) }
    }

    fn level(&self) -> libc::c_int {
        match self.family {
            Family::Ipv4 => libc::IPPROTO_IP,
            Family::Ipv6 => libc::IPPROTO_IPV6,
        }
    }

    fn get(
        &self,
        table: Table,
        step: &'static str,
        option: libc::c_int,
        bytes: &mut [u8],
    ) -> Result<(), LegacyError> {
        let mut length = bytes.len() as libc::socklen_t;
        // SAFETY: the pointers are to `length` writable bytes and to their number.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                self.level(),
                option,
                bytes.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        self.checked(table, step, result)
    }

    /// # Safety
    /// Pointers in `bytes` are to memory that the kernel may write.
    unsafe fn set(
        &self,
        table: Table,
        step: &'static str,
        option: libc::c_int,
        bytes: &[u8],
    ) -> Result<(), LegacyError> {
        // SAFETY: the pointer is to that many bytes; the caller answers for pointers in them.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                self.level(),
                option,
                bytes.as_ptr().cast(),
                bytes.len() as libc::socklen_t,
            )
        };
        self.checked(table, step, result)
    }

    fn checked(
        &self,
        table: Table,
        step: &'static str,
        result: libc::c_int,
    ) -> Result<(), LegacyError> {
        let family = self.family;
        let result = Errno::result(result).map(drop);
        result.map_err(|errno| LegacyError::System {
            family,
            table,
            step,
            errno,
        })
    }

    fn busy(&self, table: Table) -> LegacyError {
        LegacyError::Busy {
            family: self.family,
            table,
        }
    }

    fn lock(&self) -> Result<Flock<File>, LegacyError> {
        lock(&self.lock_file, self.lock_wait)
    }
}

/// Take the lock that serialises the iptables tools.
fn lock(path: &Path, wait: Duration) -> Result<Flock<File>, LegacyError> {
    let failed = |cause| LegacyError::LockFile {
        path: path.to_owned(),
        cause,
    };
    let mut options = OpenOptions::new();
    options.read(true).create(true).write(true).mode(0o600);
    // Without the right to write, an existing file can still be locked.
    let opened = options.open(path).or_else(|_| File::open(path));
    let mut file = opened.map_err(failed)?;
    let start = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) if start.elapsed() < wait => {
                file = back;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let path = path.to_owned();
                return Err(LegacyError::Locked { path });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        }
    }
}

fn put_name(bytes: &mut [u8], table: Table) {
    let name = table.name().as_bytes();
    bytes[..name.len()].copy_from_slice(name);
}

/// Whether any rule of the input names an ipset.
fn names_sets(restore: &Restore) -> bool {
    let commands = restore.tables.iter().flat_map(|section| &section.commands);
    let mut rules = commands.filter_map(|(_, command)| match command {
        Command::Append { rule, .. }
        | Command::Insert { rule, .. }
        | Command::Replace { rule, .. }
        | Command::Delete { rule, .. } => Some(rule),
        _ => None,
    });
    rules.any(|rule| {
        let mut matches = rule.matches.iter();
        matches.any(|m| matches!(m, Match::Set(_))) || matches!(rule.target, Some(Target::Set(_)))
    })
}

/// Return the counters of a new table's entries, from those of the old table.
fn kept_counters(blob: &Blob, old: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(blob.origins.len() * COUNTERS);
    for origin in &blob.origins {
        let counters = match origin {
            Origin::Kept(position) => old.chunks_exact(COUNTERS).nth(*position as usize),
            Origin::New(counters) => {
                kept.extend_from_slice(&counters.packets.to_ne_bytes());
                kept.extend_from_slice(&counters.bytes.to_ne_bytes());
                continue;
            }
        };
        kept.extend_from_slice(counters.unwrap_or(&[0; COUNTERS]));
    }
    kept
}
