//! The contract: what every backend and every monitor promises.
//!
//! Each rule has conformance cases named after it. **B** rules bind a backend, **M** rules bind a monitor with its ledger.
//! The traits repeat the rules where they apply; this page is the whole list.
//!
//! # Memory
//! - **M1** (B) A range that is empty, unaligned, wraps, or leaves the memory map is refused and nothing changes.
//! - **M2** (M) Validating what is already valid is an error, never a success. Only a list entry that says "ignore no
//!   change" for a page the ledger has as valid for that caller succeeds: no instruction, no zeroing, rights unchanged.
//!   Without it the answer is "no change" for the caller's own page and "invalid address" for any other.
//! - **M3** (B) A page validated for a lower level reads as zero there. A page returned to the level that owned it keeps
//!   that level's content. What L1 filled on purpose goes over by publishing alone.
//! - **M4** (M, B) What the ledger can know is checked for a whole entry before the first instruction; a refusal then
//!   changes nothing. If machine or host refuses at page n, pages before n are done, n is reported, and pages from n on
//!   have the state and rights they had, or are marked as pages that nobody uses any more.
//! - **M5** (B) Rights never exceed what was asked, nor what the granting level has. A cut is done only when no vCPU can use
//!   the old right; until then nothing that relies on it is possible, by type.
//! - **M6** (B) Rescinding removes all lower levels' rights, flushes, then gives the page up, in this order.
//! - **M7** (M) No page of L1, registered call area, live state frame, original secrets or features page is validated,
//!   granted, rescinded or shared by L1 on a guest's request.
//!
//! # vCPUs
//! - **V1** (M) A state frame serves at most one vCPU at a time and is out of reach of every lower level from before it is
//!   checked until after it is retired.
//! - **V2** (B) Its level, features and run bit are checked on the protected copy, and are published last.
//! - **V3** (B) Nobody creates a vCPU at a level above its own, and a guest none at L1.
//! - **V4** (B) A running vCPU is never edited or destroyed; the request waits or is refused.
//!
//! # Switch
//! - **S1** (M) A pending call is served at most once, and exactly once if the host lets L1 run, however often the host
//!   switches, refuses or repeats.
//! - **S2** (M) The caller learns the result in the agreed registers; no other register of it changes.
//! - **S3** (B) A level without a vCPU cannot be entered; entering reports what protected state says.
//! - **S4** (B) State that the vendor does not switch is saved and restored by the backend.
//!
//! # Attest
//! - **A1** (B) Evidence names the level it is for. L1 never signs bytes that a guest chose.
//! - **A2** (B) A message sequence number is never used for two plaintexts; after an ambiguous failure the same encrypted
//!   request is repeated unchanged or the channel is closed for good.
//! - **A3** (M) A lower level never sees a key of a higher one.
//!
//! # Host
//! - **H1** (B) Anything shared with the host, or writable by a lower level, is copied once and the copy is checked.
//! - **H2** (B) A host that refuses, lies or stalls can stop progress, never integrity or confidentiality; no value from
//!   outside panics or wraps.
//! - **H3** (B) The own level never comes from the host.
