//! A model of rotation, of which every order of steps is explored.
//!
//! One person's key of one provider: the key in use, the one it replaced, two KMS keys. Two function
//! instances save, restore, delete and mark; two rotation jobs read, re-encrypt and write, are killed
//! anywhere and started anew; what they have sent arrives late, twice or never. An operator deploys the
//! new setting, may go back to the old one, and disables a KMS key after a clean pass. Rows of others
//! do not meet these, so one is enough.
//!
//! Besides, somebody may run code as rotate-keys: they re-encrypt any ciphertext, another user's too,
//! towards any context and write it into any row, past every condition. What such a ciphertext is bound to
//! *inside* they cannot change.
//!
//! The condition of a rotation's write is the text that the code sends, [`UNCHANGED`]. A save, a
//! restore and a delete are transactions with a token: the SDK's attempts at one of them are one step.
//!
//! What is assumed: a request of a person's is carried out before the function gives up on it or not at
//! all; a `Scan` meets a partition's rows in the order of their sort keys; and a deploy counts as ended
//! when no invocation with the setting before it runs any more. docs/rotation.md has the results.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]
#![expect(clippy::print_stdout, reason = "the states counted are the result")]

use stateright::{Checker, HasDiscoveries, Model, Property};
use user_api_keys::{key_scan::UNCHANGED, key_table::SAME_REVISION};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kms {
    Old,
    New,
}
use Kms::{New, Old};

/// `KEY#` and `PREV#`, in the order of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    Current,
    Previous,
}
use Place::{Current, Previous};

/// Whose key something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Owner {
    Own,
    Other,
}
use Owner::{Other, Own};

/// Opens where its kid and its KMS key are those of its row, and the key inside is the row's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Ciphertext {
    kid: u8,
    under: Kms,
    /// What the plaintext says: nobody can change it.
    inside: (Owner, u8),
}

impl Ciphertext {
    fn sealed(kid: u8, under: Kms) -> Self {
        let inside = (Own, kid);
        Self { kid, under, inside }
    }
}

/// Another user's ciphertext: a row of theirs lies elsewhere.
const FOREIGN: Ciphertext = Ciphertext {
    kid: 9,
    under: Old,
    inside: (Other, 9),
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Row {
    kid: u8,
    rev: u8,
    cmk: Kms,
    ct: Ciphertext,
}

/// What the operator has deployed. Functions of both settings run while it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Deployed {
    Before,
    Forward,
    After,
    Back,
    BeforeAgain,
}

impl Deployed {
    fn seals(self) -> &'static [Kms] {
        match self {
            Self::Before | Self::BeforeAgain => &[Old],
            Self::Forward | Self::Back => &[Old, New],
            Self::After => &[New],
        }
    }

    fn next(self) -> Option<Self> {
        match self {
            Self::Before => Some(Self::Forward),
            Self::Forward => Some(Self::After),
            Self::After => Some(Self::Back),
            Self::Back => Some(Self::BeforeAgain),
            Self::BeforeAgain => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wish {
    Save(u8),
    Restore,
}

/// A function that has read the rows and not written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Under {
    wish: Wish,
    seals: Kms,
    current: Option<Row>,
    previous: Option<Row>,
}

/// A pass of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pass {
    to: Kms,
    began: Deployed,
    at: Place,
    /// Read and re-encrypted, not written yet.
    holds: Option<(Row, Ciphertext)>,
    clean: bool,
}

/// A rotation's write on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Write {
    place: Place,
    read: Row,
    ct: Ciphertext,
    /// Times it can still arrive.
    left: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    current: Option<Row>,
    previous: Option<Row>,
    /// What the person has done, by kid.
    truth: (Option<u8>, Option<u8>),
    enabled: (bool, bool),
    deployed: Deployed,
    /// A clean pass was seen since the last deploy.
    clean: bool,
    /// A rotation has written over a revision that it had not read.
    blind: bool,
    functions: [Option<Under>; 2],
    jobs: [Option<Pass>; 2],
    wire: Vec<Write>,
    next_kid: u8,
    wishes_left: u8,
    passes_left: u8,
    redirects_left: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Begin(usize, Wish, Kms),
    Finish(usize),
    GiveUp(usize),
    Delete,
    Mark,
    Start(usize, Kms),
    Visit(usize),
    Send(usize),
    Kill(usize),
    Arrive(usize),
    Deploy,
    Disable,
    /// A ciphertext into a row with this kid, towards the context of that row.
    Redirect(Ciphertext, Place, u8, Kms),
}

/// How much of everything happens.
#[derive(Debug, Clone)]
struct Rotation {
    /// Clauses of a rotation's write.
    condition: Vec<String>,
    /// What a save and a restore compare.
    same: Vec<&'static str>,
    restores_only_what_is_moved: bool,
    waits_for_the_other_jobs: bool,
    /// Opening compares what is inside with what is asked for.
    compares_what_is_inside: bool,
    wishes: u8,
    passes: u8,
    /// What somebody does who runs code as rotate-keys.
    redirects: u8,
}

impl Rotation {
    /// As the code has it.
    fn new(wishes: u8, passes: u8) -> Self {
        Self {
            condition: UNCHANGED.split(" AND ").map(str::to_owned).collect(),
            same: SAME_REVISION.to_vec(),
            restores_only_what_is_moved: true,
            waits_for_the_other_jobs: true,
            compares_what_is_inside: true,
            wishes,
            passes,
            redirects: 0,
        }
    }

    fn compromised(self, redirects: u8) -> Self {
        Self { redirects, ..self }
    }

    /// What a row gives to its user.
    fn gives(&self, state: &State, row: Row) -> Option<(Owner, u8)> {
        let opens = row.ct.kid == row.kid && row.ct.under == row.cmk && state.is_enabled(row.cmk);
        let refused = self.compares_what_is_inside && row.ct.inside != (Own, row.kid);
        (opens && !refused).then_some(row.ct.inside)
    }

    fn without(mut self, clauses: &[&str]) -> Self {
        let before = self.condition.len();
        self.condition
            .retain(|clause| !clauses.contains(&clause.as_str()));
        assert_eq!(self.condition.len() + clauses.len(), before, "{clauses:?}");
        self
    }

    /// DynamoDB's own reading: a comparison with what is not there is false, but for `<>`.
    fn holds(&self, row: Option<Row>, write: &Write) -> bool {
        let is = |f: fn(&Row) -> u8, value| row.as_ref().map(f) == Some(value);
        self.condition.iter().all(|clause| match clause.as_str() {
            "attribute_exists(pk)" => row.is_some(),
            "kid=:kid" => is(|row| row.kid, write.read.kid),
            "rev=:rev" => is(|row| row.rev, write.read.rev),
            "cmk=:old" => is(|row| row.cmk as u8, write.read.cmk as u8),
            "cmk<>:new" => !is(|row| row.cmk as u8, write.ct.under as u8),
            other => unreachable!("the model does not know {other}"),
        })
    }

    fn same(&self, row: Option<Row>, read: Option<Row>) -> bool {
        match (row, read) {
            (None, None) => true,
            (Some(row), Some(read)) => self.same.iter().all(|name| match *name {
                "kid" => row.kid == read.kid,
                "rev" => row.rev == read.rev,
                other => unreachable!("the model does not know {other}"),
            }),
            _ => false,
        }
    }

    /// The one step of a save's or a restore's transaction; whether it was carried out.
    fn transact(&self, state: &mut State, under: &Under) -> bool {
        if !self.same(state.current, under.current) {
            return false;
        }
        match (under.wish, under.current, under.previous) {
            (Wish::Save(kid), before, _) => {
                let ct = Ciphertext::sealed(kid, under.seals);
                let rev = before.map_or(0, |row| row.rev) + 1;
                let cmk = under.seals;
                state.current = Some(Row { kid, rev, cmk, ct });
                if before.is_some() {
                    state.previous = before;
                    state.truth.1 = state.truth.0;
                }
                state.truth.0 = Some(kid);
                true
            }
            (Wish::Restore, Some(current), Some(previous)) => {
                if !self.same(state.previous, Some(previous)) {
                    return false;
                }
                let rev = current.rev + 1;
                state.current = Some(Row { rev, ..previous });
                state.previous = Some(current);
                state.truth = (state.truth.1, state.truth.0);
                true
            }
            (Wish::Restore, ..) => false,
        }
    }
}

impl State {
    fn row(&self, place: Place) -> Option<Row> {
        match place {
            Current => self.current,
            Previous => self.previous,
        }
    }

    fn put(&mut self, place: Place, row: Row) {
        match place {
            Current => self.current = Some(row),
            Previous => self.previous = Some(row),
        }
    }

    fn is_enabled(&self, key: Kms) -> bool {
        match key {
            Old => self.enabled.0,
            New => self.enabled.1,
        }
    }

    fn opens(&self, row: Option<Row>) -> bool {
        row.is_none_or(|row| {
            row.ct.kid == row.kid && row.ct.under == row.cmk && self.is_enabled(row.cmk)
        })
    }

    /// The KMS key that is to go, when the deploy is over.
    fn leaving(&self) -> Option<Kms> {
        match self.deployed {
            Deployed::After => Some(Old),
            Deployed::BeforeAgain => Some(New),
            _ => None,
        }
    }
}

/// The next place of a pass, or its end.
fn advance(state: &mut State, job: usize, mut pass: Pass) {
    pass.holds = None;
    state.jobs[job] = match pass.at {
        Current => Some(Pass {
            at: Previous,
            ..pass
        }),
        Previous => {
            let counts =
                pass.began == state.deployed && state.leaving().is_some_and(|k| k != pass.to);
            state.clean |= pass.clean && counts;
            None
        }
    };
}

impl Model for Rotation {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let row = |kid, rev| Row {
            kid,
            rev,
            cmk: Old,
            ct: Ciphertext::sealed(kid, Old),
        };
        let none = State {
            current: None,
            previous: None,
            truth: (None, None),
            enabled: (true, true),
            deployed: Deployed::Before,
            clean: false,
            blind: false,
            functions: [None; 2],
            jobs: [None; 2],
            wire: Vec::new(),
            next_kid: 3,
            wishes_left: self.wishes,
            passes_left: self.passes,
            redirects_left: self.redirects,
        };
        let both = State {
            current: Some(row(2, 2)),
            previous: Some(row(1, 1)),
            truth: (Some(2), Some(1)),
            ..none.clone()
        };
        let one = State {
            current: Some(row(1, 1)),
            truth: (Some(1), None),
            ..none.clone()
        };
        vec![none, one, both]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (n, function) in state.functions.iter().enumerate() {
            if function.is_some() {
                steps.extend([Step::Finish(n), Step::GiveUp(n)]);
            } else if state.wishes_left > 0 {
                for &seals in state.deployed.seals() {
                    steps.push(Step::Begin(n, Wish::Save(state.next_kid), seals));
                    steps.push(Step::Begin(n, Wish::Restore, seals));
                }
            }
        }
        if state.wishes_left > 0 && state.current.is_some() {
            steps.extend([Step::Delete, Step::Mark]);
        }
        for (n, job) in state.jobs.iter().enumerate() {
            match job {
                None if state.passes_left > 0 && state.deployed != Deployed::Before => {
                    let keys = state.deployed.seals().iter();
                    steps.extend(keys.map(|&to| Step::Start(n, to)));
                }
                None => {}
                Some(pass) => {
                    steps.push(match pass.holds {
                        Some(_) => Step::Send(n),
                        None => Step::Visit(n),
                    });
                    steps.push(Step::Kill(n));
                }
            }
        }
        steps.extend((0..state.wire.len()).map(Step::Arrive));
        if state.redirects_left > 0 {
            let rows = [state.current, state.previous].into_iter().flatten();
            for ct in rows.map(|row| row.ct).chain([FOREIGN]) {
                for place in [Current, Previous]
                    .into_iter()
                    .filter(|p| state.row(*p).is_some())
                {
                    let own = state.row(place).map_or(0, |row| row.kid);
                    for kid in [own, ct.kid, ct.inside.1] {
                        let under = [Old, New].into_iter();
                        steps.extend(under.map(|kms| Step::Redirect(ct, place, kid, kms)));
                    }
                }
            }
        }
        let all_enabled = state.enabled == (true, true);
        if all_enabled && state.deployed.next().is_some() {
            steps.push(Step::Deploy);
        }
        if all_enabled && state.clean && state.leaving().is_some() {
            steps.push(Step::Disable);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Begin(n, wish, seals) => {
                let under = Under {
                    wish,
                    seals,
                    current: state.current,
                    previous: state.previous,
                };
                if wish == Wish::Restore {
                    let previous = state.previous?;
                    if self.restores_only_what_is_moved && previous.cmk != seals {
                        return None;
                    }
                    state.current?;
                } else {
                    state.next_kid += 1;
                }
                state.wishes_left -= 1;
                state.functions[n] = Some(under);
            }
            Step::Finish(n) => {
                let under = state.functions[n].take()?;
                if !self.transact(&mut state, &under) && matches!(under.wish, Wish::Save(_)) {
                    // It reads again and tries again.
                    state.functions[n] = Some(Under {
                        current: state.current,
                        previous: state.previous,
                        ..under
                    });
                }
            }
            Step::GiveUp(n) => state.functions[n] = None,
            Step::Delete => {
                state.wishes_left -= 1;
                (state.current, state.previous) = (None, None);
                state.truth = (None, None);
            }
            Step::Mark => {
                state.wishes_left -= 1;
                state.current.as_mut()?.rev += 1;
            }
            Step::Start(n, to) => {
                state.passes_left -= 1;
                state.jobs[n] = Some(Pass {
                    to,
                    began: state.deployed,
                    at: Current,
                    holds: None,
                    clean: true,
                });
            }
            Step::Visit(n) => {
                let mut pass = state.jobs[n]?;
                match state.row(pass.at) {
                    Some(row) if row.cmk != pass.to => {
                        pass.clean = false;
                        let usable = state.opens(Some(row)) && state.is_enabled(pass.to);
                        let ct = Ciphertext {
                            under: pass.to,
                            ..row.ct
                        };
                        match usable {
                            true => {
                                pass.holds = Some((row, ct));
                                state.jobs[n] = Some(pass);
                            }
                            false => advance(&mut state, n, pass),
                        }
                    }
                    _ => advance(&mut state, n, pass),
                }
            }
            Step::Send(n) => {
                let pass = state.jobs[n]?;
                let (read, ct) = pass.holds?;
                // More are on their way only when these have arrived.
                if state.wire.len() == 2 {
                    return None;
                }
                state.wire.push(Write {
                    place: pass.at,
                    read,
                    ct,
                    left: 2,
                });
                state.wire.sort_unstable();
                advance(&mut state, n, pass);
            }
            Step::Kill(n) => state.jobs[n] = None,
            Step::Arrive(n) => {
                let write = state.wire[n];
                match write.left {
                    1 => drop(state.wire.remove(n)),
                    _ => state.wire[n].left -= 1,
                }
                let row = state.row(write.place);
                if self.holds(row, &write) {
                    state.blind |= row.is_some_and(|row| row.rev != write.read.rev);
                    let row = Row {
                        // Without a row, an update makes one.
                        kid: row.map_or(write.read.kid, |row| row.kid),
                        rev: row.map_or(0, |row| row.rev) + 1,
                        cmk: write.ct.under,
                        ct: write.ct,
                    };
                    state.put(write.place, row);
                }
            }
            Step::Deploy => {
                let next = state.deployed.next()?;
                let stays = |key: Kms| next.seals().contains(&key);
                let functions = state.functions.iter().flatten().all(|f| stays(f.seals));
                let jobs = state.jobs.iter().flatten().all(|pass| stays(pass.to))
                    && state.wire.iter().all(|write| stays(write.ct.under));
                if !functions || self.waits_for_the_other_jobs && !jobs {
                    return None;
                }
                state.deployed = next;
                state.clean = false;
            }
            Step::Redirect(ct, place, kid, under) => {
                state.redirects_left -= 1;
                let row = state.row(place)?;
                let ct = Ciphertext { kid, under, ..ct };
                let cmk = under;
                state.put(
                    place,
                    Row {
                        kid,
                        cmk,
                        ct,
                        ..row
                    },
                );
            }
            Step::Disable => match state.leaving()? {
                Old => state.enabled.0 = false,
                New => state.enabled.1 = false,
            },
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        // Who may write rows can lose them.
        fn harmed(model: &Rotation, state: &State) -> bool {
            state.redirects_left < model.redirects
        }
        vec![
            Property::always(
                "every stored key opens under an enabled KMS key",
                |model: &Self, state: &State| {
                    let opens = state.opens(state.current) && state.opens(state.previous);
                    opens || harmed(model, state)
                },
            ),
            Property::always(
                "no key is lost, revived or overwritten",
                |model: &Self, state: &State| {
                    let kid = |row: Option<Row>| row.map(|row| row.kid);
                    (kid(state.current), kid(state.previous)) == state.truth || harmed(model, state)
                },
            ),
            Property::always(
                "what opens is the user's own key and the one that is asked for",
                |model: &Self, state: &State| {
                    let rows = [state.current, state.previous].into_iter().flatten();
                    rows.into_iter().all(|row| {
                        let given = model.gives(state, row);
                        given.is_none_or(|inside| inside == (Own, row.kid))
                    })
                },
            ),
            Property::always(
                "no write lands on a revision it has not read",
                |_, state: &State| !state.blind,
            ),
            Property::always(
                "a rotation that is left alone ends",
                |model: &Self, state| harmed(model, state) || model.ends(state),
            ),
            Property::sometimes("the old KMS key is disabled", |_, state: &State| {
                !state.enabled.0
            }),
            Property::sometimes("a rollback ends, too", |_, state: &State| !state.enabled.1),
        ]
    }
}

impl Rotation {
    /// From here, two passes that nobody disturbs suffice: one moves, one sees that all is moved.
    fn ends(&self, state: &State) -> bool {
        let Some(leaving) = state.leaving().filter(|key| state.is_enabled(*key)) else {
            return true;
        };
        let mut state = State {
            functions: [None; 2],
            jobs: [None; 2],
            wire: Vec::new(),
            passes_left: 2,
            clean: false,
            ..state.clone()
        };
        let to = if leaving == Old { New } else { Old };
        for _ in 0..2 {
            state = self.next_state(&state, Step::Start(0, to)).unwrap();
            while let Some(pass) = state.jobs[0] {
                let step = match pass.holds {
                    Some(_) => Step::Send(0),
                    None => Step::Visit(0),
                };
                state = self.next_state(&state, step).unwrap();
                if !state.wire.is_empty() {
                    state = self.next_state(&state, Step::Arrive(0)).unwrap();
                    state.wire.clear();
                }
            }
        }
        state.clean
    }

    /// Explores every order; how many states, and which promises are broken.
    fn explore(self) -> (usize, Vec<&'static str>) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let checker = self
            .checker()
            .threads(threads)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let discoveries = checker.discoveries();
        let always =
            |name: &&str| !name.starts_with("the old KMS") && !name.starts_with("a rollback");
        let mut broken: Vec<_> = discoveries.keys().copied().filter(always).collect();
        broken.sort_unstable();
        if broken.is_empty() {
            assert_eq!(discoveries.len(), 2, "both ends are reached");
        }
        (checker.unique_state_count(), broken)
    }
}

#[test]
fn as_written_no_order_of_steps_loses_a_key() {
    let (states, broken) = Rotation::new(2, 2).explore();
    println!("{states} states");
    assert!(broken.is_empty(), "{broken:?}");
    assert!(states > 100_000, "{states}");
}

#[test]
#[ignore = "minutes: the same with a third wish; docs/rotation.md has its result"]
fn as_written_no_order_of_more_steps_loses_a_key() {
    let (states, broken) = Rotation::new(3, 2).explore();
    println!("{states} states");
    assert!(broken.is_empty(), "{broken:?}");
}

const OPENS: &str = "every stored key opens under an enabled KMS key";
const KEPT: &str = "no key is lost, revived or overwritten";
const OWN: &str = "what opens is the user's own key and the one that is asked for";
const SEEN: &str = "no write lands on a revision it has not read";

/// What is found first when a part of the rules is left out.
fn breaks(model: Rotation, promise: &str) {
    let (states, broken) = model.explore();
    println!("{broken:?} after {states} states");
    assert!(broken.contains(&promise), "{broken:?} in {states} states");
}

#[test]
fn a_compromised_rotation_makes_nothing_open_to_another_key() {
    let (states, broken) = Rotation::new(1, 1).compromised(1).explore();
    println!("{states} states");
    assert!(broken.is_empty(), "{broken:?}");
    assert!(states > 10_000, "{states}");
}

#[test]
fn without_what_is_inside_a_compromised_rotation_hands_out_keys() {
    let outside = Rotation {
        compares_what_is_inside: false,
        ..Rotation::new(1, 1).compromised(1)
    };
    breaks(outside, OWN);
}

#[test]
fn without_rev_a_late_write_lands_on_what_it_has_not_read() {
    breaks(Rotation::new(2, 2).without(&["rev=:rev"]), SEEN);
}

#[test]
fn without_kid_a_late_write_lands_on_another_key() {
    breaks(Rotation::new(2, 2).without(&["kid=:kid"]), OPENS);
}

#[test]
fn without_attribute_exists_and_what_implies_it_a_deleted_key_comes_back() {
    // "Not moved yet" in the words that come first to mind: they hold where there is no row.
    let condition = vec!["cmk<>:new".to_owned()];
    let model = Rotation::new(2, 2);
    breaks(Rotation { condition, ..model }, KEPT);
}

#[test]
fn attribute_exists_and_the_kms_key_are_implied_by_kid_and_rev() {
    let less = Rotation::new(2, 2).without(&["attribute_exists(pk)", "cmk=:old"]);
    let (_, broken) = less.explore();
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn without_rev_in_a_save_an_older_ciphertext_goes_where_no_pass_looks_again() {
    let same = vec!["kid"];
    breaks(
        Rotation {
            same,
            ..Rotation::new(2, 2)
        },
        OPENS,
    );
}

#[test]
fn without_kid_in_a_save_the_wrong_key_is_kept() {
    let same = vec!["rev"];
    breaks(
        Rotation {
            same,
            ..Rotation::new(3, 0)
        },
        KEPT,
    );
}

#[test]
fn a_restore_of_what_is_not_moved_passes_behind_the_rotation() {
    let any = Rotation {
        restores_only_what_is_moved: false,
        ..Rotation::new(2, 2)
    };
    breaks(any, OPENS);
}

#[test]
fn a_job_with_the_setting_before_undoes_a_clean_pass() {
    let hasty = Rotation {
        waits_for_the_other_jobs: false,
        ..Rotation::new(2, 2)
    };
    breaks(hasty, OPENS);
}
