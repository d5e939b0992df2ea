//! Changes of namespaces that an administrator asks for: made, flushed, deleted (PROTOCOL §4 "Flush").
//!
//! A change is one write to the table, stamped here; nodes learn of it as of all that is replicated, and their shards with the next
//! snapshot. A flush promises that nothing acknowledged before it was asked for is left: its mark lies above every clock of the mesh that may
//! stamp (`ClockWatch::behind`). It is done once every member says that it holds to the mark (`NamespaceHolds`), which is the asker's
//! to find out. Refusals name what is missing.

use super::Node;
use crate::{
    id::NamespaceId,
    namespace::{Namespace, NamespaceError, NamespaceTable},
    time::Now,
    value::{Hlc, Version},
};

impl Node {
    /// Those there are.
    pub(super) fn list_namespaces(&self) -> Vec<Namespace> {
        self.replicated.namespaces().iter().map(|(_, namespace)| namespace.clone()).collect()
    }

    /// Creates a namespace; `false`: exactly this one was there.
    ///
    /// # Errors
    /// Words for a person; nothing was changed.
    pub(super) fn create_namespace(&mut self, now: Now, namespace: Namespace) -> Result<bool, String> {
        self.may_change(now)?;
        if namespace.ack.is_durable() && !self.config.disk {
            return Err(namespace.diskless(&self.config.name));
        }
        let version = Version { hlc: self.clock.stamp(now), actor: self.config.actor };
        let n = self.config.cluster.n;
        let created = self.replicated.update_namespaces(|table| table.create(namespace, n, version));
        let created = created.map_err(|error| error.to_string())?;
        self.unsent |= created;
        Ok(created)
    }

    /// Empties a namespace; its mark.
    ///
    /// # Errors
    /// Words for a person; nothing was changed.
    pub(super) fn flush_namespace(&mut self, now: Now, name: &str) -> Result<Hlc, String> {
        self.mark(now, |table, mark| table.flush(name, mark))
    }

    /// Deletes a namespace; its mark.
    ///
    /// # Errors
    /// Words for a person; nothing was changed.
    pub(super) fn delete_namespace(&mut self, now: Now, name: &str) -> Result<Hlc, String> {
        self.mark(now, |table, mark| table.delete(name, mark))
    }

    fn mark(
        &mut self,
        now: Now,
        change: impl FnOnce(&mut NamespaceTable, Hlc) -> Result<Hlc, NamespaceError>,
    ) -> Result<Hlc, String> {
        self.may_change(now)?;
        let stamp = self.clock.stamp(now);
        let least = stamp.max(Hlc::at(stamp.wall() + self.watch.behind(now.mono))).next();
        self.clock.raise(least, now);
        let mut mark = least;
        let changed = self.replicated.update_namespaces(|table| {
            mark = change(table, least)?;
            Ok(true)
        });
        changed.map_err(|error: NamespaceError| error.to_string())?;
        self.unsent = true;
        Ok(mark)
    }

    /// Whether shards were told of a mark, and it is on disk where there is one.
    pub(super) fn holds_mark(&self, name: &str, mark: Hlc) -> bool {
        let id = NamespaceId::of(name);
        let marked = self.view.namespaces.all().any(|known| known.id == id && known.mark >= mark);
        marked && (!self.config.disk || self.disk.holds(id, mark))
    }
}
