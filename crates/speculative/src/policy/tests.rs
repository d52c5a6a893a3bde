use super::{load::MEMORY_VERDICT, survival::PRIOR_ACCEPTANCE, times::*, *};
use crate::cost::expected_tokens_constant;
use crate::philox::philox4x32_10;

mod together;

/// A world in which cycles take what they take; times in units of a target's step.
#[derive(Clone, Copy)]
struct World {
    a: f64,
    step: f64,
    rtt: f64,
    /// A row more in the target's pass.
    row: f64,
    /// Other sessions, which choose as this one.
    others: usize,
    /// How far a time may be from what it is on average, as a share of that.
    noise: f64,
    /// What a pass takes, of either model, over what it takes on a machine that is left alone.
    slow: f64,
}

impl World {
    fn verify(self, gamma: usize) -> f64 {
        self.slow * (1.0 + self.row * ((1 + self.others) * (1 + gamma) - 1) as f64)
    }

    fn cycle(self, gamma: usize) -> f64 {
        let draft = if gamma > 0 { self.rtt + self.step * gamma as f64 } else { 0.0 };
        self.verify(gamma) + draft
    }

    /// The best fixed γ and its tokens in a unit of time.
    fn best(self) -> (usize, f64) {
        let rate = |gamma: usize| expected_tokens_constant(self.a, gamma as u32) / self.cycle(gamma);
        (0..=MOST_GAMMA)
            .map(|gamma| (gamma, rate(gamma)))
            .fold((0, 0.0), |best, next| if next.1 > best.1 { next } else { best })
    }

    /// Cycles that `outlook` chooses, until so many tokens are there; gives their rate.
    fn run(self, outlook: &mut Outlook, tokens: usize, seed: u32) -> f64 {
        self.run_and_count(outlook, tokens, seed).0
    }

    /// The same, and the share of cycles that proposed something.
    fn run_and_count(self, outlook: &mut Outlook, tokens: usize, seed: u32) -> (f64, f64) {
        let (mut cycles, mut proposed) = (0, 0);
        let (mut emitted, mut time, mut drawn) = (0, 0.0, 0);
        // Sessions take turns.
        let sessions = 1 + self.others;
        let mut before = vec![0; sessions];
        let mut chance = || {
            drawn += 1;
            f64::from(philox4x32_10([drawn, 0, 0, 0], [seed, 7])[0]) / f64::from(u32::MAX)
        };
        while emitted < tokens {
            let gamma = outlook.gamma(sessions, MOST_GAMMA);
            let before = &mut before[cycles % sessions];
            cycles += 1;
            proposed += usize::from(gamma > 0);
            let accepted = (0..gamma).take_while(|_| chance() < self.a).count();
            // Times that vary as those of a busy machine do.
            let mut noisy = |time: f64| time * (1.0 - self.noise + 2.0 * self.noise * chance());
            let (verdict_s, compute_s, around_s) =
                (noisy(self.verify(gamma)), noisy(self.slow * self.step * gamma as f64), noisy(self.rtt));
            let draft = (gamma > 0).then_some(Drafted { compute_s, around_s });
            let waited_s = draft.map_or(0.0, |draft| draft.compute_s + draft.around_s);
            time += verdict_s + waited_s;
            emitted += accepted + 1;
            outlook.learn(&Observed {
                sessions,
                wanted: gamma,
                gamma,
                ended_early: false,
                accepted,
                draft,
                waited_s,
                is_cold: *before == 0,
                has_changed: gamma != *before,
                verdict_s,
            });
            *before = gamma;
        }
        (emitted as f64 / time, proposed as f64 / cycles as f64)
    }
}

/// A cycle of a session that chooses alone.
const ALONE: Observed = Observed {
    sessions: 1,
    wanted: 0,
    gamma: 0,
    ended_early: false,
    accepted: 0,
    draft: None,
    waited_s: 0.0,
    is_cold: false,
    has_changed: false,
    verdict_s: 0.0,
};

const NEAR: World = World { a: 0.7, step: 0.1, rtt: 0.0, row: 0.03, others: 0, noise: 0.1, slow: 1.0 };

/// What is used now, up to `most`.
fn best(outlook: &mut Outlook, most: usize) -> usize {
    let expected = outlook.survival.expected_tokens();
    outlook.load(1).rates(&expected, 1).best(most)
}

#[test]
fn it_finds_the_best_at_every_distance() {
    for rtt in [0.0, 0.5, 1.0, 2.0, 4.0] {
        for a in [0.5, 0.7, 0.9] {
            let world = World { rtt, a, ..NEAR };
            let rate = (1..=3).map(|seed| world.run(&mut Outlook::new(), 40_000, seed)).sum::<f64>() / 3.0;
            let (gamma, best) = world.best();
            assert!(rate > 0.97 * best, "RTT {rtt}, a {a}: {rate} where γ {gamma} gives {best}");
        }
    }
}

/// Where nothing pays that must be seen soon, by what few passes of one row tell beside many of more rows.
#[test]
fn on_a_busy_machine_it_soon_finds_that_nothing_pays() {
    let mut worst = f64::INFINITY;
    for seed in 1..=40 {
        let world = World { rtt: 4.0, a: 0.86, step: 0.06, row: 0.17, noise: 0.6, ..NEAR };
        let rate = world.run(&mut Outlook::new(), 1500, seed);
        println!("seed {seed}: {rate} of plain decoding");
        worst = worst.min(rate);
    }
    assert!(worst > 0.9, "{worst} of plain decoding");
}

/// A coordinator's outlook lives for weeks.
#[test]
fn pace_and_passes_do_not_part_over_a_million_cycles() {
    let mut outlook = Outlook::new();
    let chance = |cycle: u32| f64::from(philox4x32_10([cycle, 0, 0, 0], [5, 7])[0]) / f64::from(u32::MAX);
    for cycle in 0..1_000_000 {
        let gamma = if cycle % 200 < 6 { 0 } else { 4 };
        let stall = if cycle % 53 == 0 { 10.0 } else { 1.0 };
        let verdict_s = NEAR.verify(gamma) * (0.4 + 1.2 * chance(cycle)) * stall;
        let draft = (gamma > 0).then(Drafted::default);
        outlook.learn(&Observed { gamma, accepted: gamma / 2, draft, verdict_s, ..ALONE });
    }
    let pace = outlook.load(1).pace.get_or(1.0);
    assert!((0.2..5.0).contains(&pace), "{pace}");
    // With its stalls, which count as four times what was expected at most.
    let step_s = outlook.load(1).times().cycle_s(0);
    assert!((0.7..1.6).contains(&step_s), "{step_s}");
}

/// A machine that is slow for a while makes what is done meanwhile look worse than what was done before. Plain decoding must be tried
/// again then as anything else.
#[test]
fn where_the_machine_changes_its_speed_it_comes_back_to_plain_decoding() {
    for seed in 1..=8 {
        let mut outlook = Outlook::new();
        let world = World { rtt: 6.0, a: 0.86, step: 0.06, row: 0.15, noise: 0.3, ..NEAR };
        let (mut tokens, mut time) = (0.0, 0.0);
        for phase in 0..30 {
            let slow = if phase % 2 == 0 { 1.0 } else { 1.8 };
            let world = World { slow, ..world };
            let rate = world.run(&mut outlook, 600, seed * 100 + phase);
            tokens += 600.0;
            time += 600.0 / rate;
        }
        let plain = 2.0 / (1.0 + 1.8);
        let share = tokens / time / plain;
        println!("seed {seed}: {share} of plain decoding");
        assert!(share > 0.95, "seed {seed}: {share} of plain decoding");
    }
}

/// From the first token on, with what it takes to find out.
#[test]
fn a_hopeless_draft_costs_next_to_nothing() {
    for (a, rtt, step) in [(0.02, 0.0, 0.2), (0.02, 4.0, 0.2), (0.7, 8.0, 1.5)] {
        let world = World { a, rtt, step, ..NEAR };
        assert_eq!(world.best().0, 0);
        let rate = world.run(&mut Outlook::new(), 4096, 2);
        assert!(rate > 0.975, "a {a}, RTT {rtt}: {rate} of AR");
    }
}

#[test]
fn it_follows_what_changes() {
    let mut outlook = Outlook::new();
    let far = World { rtt: 6.0, a: 0.5, ..NEAR };
    far.run(&mut outlook, 2000, 3);
    assert_eq!(best(&mut outlook, MOST_GAMMA), 0);
    // The draft has come near: it is tried again, seldom, and then trusted.
    NEAR.run(&mut outlook, 30_000, 4);
    let rate = NEAR.run(&mut outlook, 4000, 5);
    assert!(rate > 0.95 * NEAR.best().1, "{rate} of {}", NEAR.best().1);
}

/// Where the rows of many sessions fill a pass, each row costs.
#[test]
fn a_target_that_computes_for_many_gets_shorter_proposals() {
    let gamma = |others| {
        let world = World { row: 0.06, others, ..NEAR };
        let mut outlook = Outlook::new();
        let rate = world.run(&mut outlook, 8000 * (1 + others), 6);
        assert!(rate > 0.95 * world.best().1, "{others} others: {rate} of {}", world.best().1);
        let expected = outlook.survival.expected_tokens();
        outlook.load(1 + others).rates(&expected, 1 + others).best(MOST_GAMMA)
    };
    let (alone, crowded) = (gamma(0), gamma(31));
    assert!(crowded <= 1 && alone >= 3, "alone {alone}, crowded {crowded}");
}

#[test]
fn survival_is_what_was_seen_and_beyond_it_what_was_seen_elsewhere() {
    let mut outlook = Outlook::new();
    let prior = outlook.survival.expected_tokens()[3];
    assert!((prior - expected_tokens_constant(PRIOR_ACCEPTANCE, 3)).abs() < 1e-12);
    for _ in 0..2000 {
        outlook.learn(&Observed { gamma: 2, accepted: 2, draft: Some(Drafted::default()), ..Observed::default() });
    }
    assert!(outlook.survival.expected_tokens()[2] > 2.98 && outlook.survival.expected_tokens()[8] > 8.5);
    for _ in 0..2000 {
        outlook.learn(&Observed { gamma: 2, accepted: 1, draft: Some(Drafted::default()), ..Observed::default() });
    }
    let survival =
        [1, 2].map(|gamma| outlook.survival.expected_tokens()[gamma] - outlook.survival.expected_tokens()[gamma - 1]);
    assert!(survival[0] > 0.93 && survival[1] < 0.07, "{survival:?}");
}

#[test]
fn nothing_but_a_bound_limits_it() {
    let sure = World { a: 1.0, step: 0.0, row: 0.0, ..NEAR };
    let mut outlook = Outlook::new();
    sure.run(&mut outlook, 4000, 8);
    assert!(best(&mut outlook, MOST_GAMMA) > 24, "{}", best(&mut outlook, MOST_GAMMA));
    assert_eq!((best(&mut outlook, 5), best(&mut outlook, 0)), (5, 0));
    for most in [5, 1, 0] {
        assert!((0..100).all(|_| outlook.gamma(1, most) <= most), "{most}");
    }
    // A trial keeps to it too.
    for most in [2, 0] {
        outlook.load(1).trial = (8, 3);
        assert_eq!(outlook.gamma(1, most), most);
    }
}

#[test]
fn policies_have_names() {
    for (text, gamma) in [("0", Gamma::Fixed(0)), ("32", Gamma::Fixed(32)), ("auto", Gamma::Auto)] {
        assert_eq!(text.parse(), Ok(gamma));
        assert_eq!(gamma.to_string(), text);
    }
    for wrong in ["33", "-1", "Auto", "", "4.0"] {
        assert_eq!(wrong.parse::<Gamma>(), Err("allowed: a whole number, 0 to 32, or auto".to_owned()));
    }
}

#[test]
fn at_its_bound_it_tries_what_is_shorter() {
    let sure = World { a: 1.0, step: 0.0, row: 0.0, ..NEAR };
    let mut outlook = Outlook::new();
    let mut seen: Vec<usize> = Vec::new();
    for _ in 0..3000 {
        let gamma = outlook.gamma(1, 8);
        seen.push(gamma);
        let (verdict_s, draft) = (sure.verify(gamma), Some(Drafted::default()));
        outlook.learn(&Observed { gamma, accepted: gamma, draft, verdict_s, ..ALONE });
    }
    assert!(seen.contains(&8) && seen.contains(&4), "only {seen:?}");
}

/// What is drafted ahead is not waited for, so distance does not make γ longer.
#[test]
fn what_is_drafted_ahead_costs_no_time() {
    let mut outlook = Outlook::new();
    let drafted = Some(Drafted { compute_s: 1.0, around_s: 8.0 });
    for cycle in 0..200 {
        let (draft, waited_s) = if cycle % 10 == 0 { (drafted, 9.0) } else { (None, 0.0) };
        outlook.learn(&Observed { gamma: 4, accepted: 3, draft, waited_s, verdict_s: 1.0, ..ALONE });
    }
    assert!((outlook.draft_s(4) - 9.0).abs() < 1e-9 && (outlook.draft_s(8) - 10.0).abs() < 1e-9);
    let cycle_s = outlook.load(1).times().cycle_s(4);
    assert!((1.3..3.0).contains(&cycle_s), "{cycle_s}");
}

/// Sessions take turns: what one proposes says nothing of what the target had to wait for before another's plain cycle.
#[test]
fn plain_cycles_count_but_the_first_of_a_session_after_a_proposal() {
    let plain = |verdict_s, has_changed| Observed { has_changed, verdict_s, ..ALONE };
    let other = Observed { gamma: 4, draft: Some(Drafted::default()), verdict_s: 3.0, ..ALONE };
    let mut outlook = Outlook::new();
    for _ in 0..400 {
        outlook.learn(&other);
        outlook.learn(&plain(1.0, false));
    }
    assert!((outlook.load(1).times().cycle_s(0) - 1.0).abs() < 0.05, "{}", outlook.load(1).times().cycle_s(0));
    for _ in 0..400 {
        outlook.learn(&other);
        outlook.learn(&plain(2.0, true));
    }
    assert!((outlook.load(1).times().cycle_s(0) - 1.0).abs() < 0.1, "{}", outlook.load(1).times().cycle_s(0));
}

/// Where a proposal promises a little more than plain decoding, it is not tried all the time.
#[test]
fn a_close_call_costs_few_trials() {
    let close = World { a: 0.7, rtt: 1.25, noise: 0.0, ..NEAR };
    let (_, rate) = close.best();
    assert!((1.005..1.025).contains(&rate), "{rate} of plain decoding");
    let share = |seed| {
        let mut outlook = Outlook::new();
        close.run(&mut outlook, 2000, seed);
        close.run_and_count(&mut outlook, 20_000, seed + 100).1
    };
    let mean = (1..=8).map(share).sum::<f64>() / 8.0;
    assert!(mean < 0.25, "{mean} of all cycles");
}

/// Up to some rows a pass takes what reading the weights takes; a line through those would promise too much of more rows.
#[test]
fn what_was_not_seen_is_not_promised_for_less() {
    let takes = |rows: usize| 1.0 + 0.08 * (rows - 1) as f64 + 0.2 * rows.saturating_sub(4) as f64;
    let mut curve = Curve::new(MEMORY_VERDICT);
    assert!(curve.fitted().is_none());
    for cycle in 0..300 {
        let rows = [1, 5, 6][cycle % 3];
        curve.learn(rows, takes(rows), 1.0);
    }
    let fitted = curve.fitted().expect("something was seen");
    for rows in [1, 5, 6] {
        assert!((fitted.seconds(rows as f64) - takes(rows)).abs() < 1e-9);
    }
    for rows in [7, 8, 9, 12] {
        let share = fitted.seconds(rows as f64) / takes(rows);
        assert!((0.97..1.6).contains(&share), "{rows} rows: {share}");
    }
}

#[test]
fn a_curve_is_a_parabola_that_neither_falls_nor_flattens() {
    let fitted = |sizes: &[usize], takes: fn(f64) -> f64, at: f64| {
        let mut curve = Curve::new(MEMORY_VERDICT);
        (0..64).for_each(|n| curve.learn(sizes[n % sizes.len()], takes(sizes[n % sizes.len()] as f64), 1.0));
        curve.fitted().expect("something was seen").seconds(at)
    };
    let is_near = |a: f64, b: f64| assert!((a - b).abs() < 0.01, "{a} is not {b}");
    is_near(fitted(&[1, 2, 5, 7], |x| 3.0 + 0.5 * x + 0.1 * x * x, 20.0), 53.0);
    is_near(fitted(&[300, 301, 303, 312], |x| 3.0 + 0.5 * x + 0.1 * x * x, 310.0), 9768.0);
    is_near(fitted(&[2, 6], |x| 1.0 + 0.5 * x, 20.0), 11.0);
    is_near(fitted(&[4], |x| 2.0 * x, 20.0), 8.0);
    // What falls is flat beyond, what flattens is a line, and what bends up does not rise again below its least.
    is_near(fitted(&[2, 6], |x| 9.0 - x, 20.0), 5.0);
    is_near(fitted(&[1, 4, 9], f64::sqrt, 16.0), fitted(&[1, 4, 9], f64::sqrt, 15.0) + 0.245);
    is_near(fitted(&[10, 12, 14], |x| (x - 12.0).powi(2), 1.0), fitted(&[10, 12, 14], |x| (x - 12.0).powi(2), 2.0));
    // What falls and bends a little is no time beyond.
    is_near(fitted(&[2, 3, 4], |x| 16.0 - 3.0 * x + 0.01 * x * x, 20.0), 7.14);
}

/// What slows all passes down while one size alone is seen says nothing of that size.
#[test]
fn a_slower_machine_is_told_from_a_dearer_pass() {
    let mut outlook = Outlook::new();
    let mut learn = |gamma: usize, slow: f64| {
        let draft = (gamma > 0).then(Drafted::default);
        outlook.learn(&Observed { gamma, draft, verdict_s: slow * NEAR.verify(gamma), ..ALONE });
        outlook.load(1).times().cycle_s(4) / outlook.load(1).times().cycle_s(2)
    };
    let before = (0..300).map(|cycle| learn([0, 2, 4][cycle % 3], 1.0)).last().expect("cycles");
    let after = (0..60).map(|_| learn(4, 1.3)).last().expect("cycles");
    assert!((after / before - 1.0).abs() < 0.06, "{before} before, {after} after");
}

/// What a session could not propose in full is tried by another.
#[test]
fn a_session_that_is_about_to_end_begins_no_trial_for_the_others() {
    let mut outlook = Outlook::new();
    NEAR.run(&mut outlook, 20_000, 9);
    let usual = best(&mut outlook, MOST_GAMMA);
    assert!(usual >= 3, "{usual}");
    // Nothing was tried for long.
    outlook.load(1).trial = (0, 0);
    outlook.load(1).since_trial = 10_000;
    outlook.load(1).since_trial_s = [1e9; 5];
    for most in 0..usual {
        assert_eq!(outlook.gamma(1, most), best(&mut outlook, most), "up to {most}");
        assert_eq!(outlook.load(1).trial, (0, 0));
    }
    let tried = outlook.gamma(1, MOST_GAMMA);
    assert!(tried != usual && outlook.load(1).trial.1 > 2, "{tried} of {:?}", outlook.load(1).trial);
    let left = outlook.load(1).trial.1;
    outlook.load(1).trial = (5, left);
    assert!(outlook.gamma(1, 2) <= 2);
    assert_eq!(outlook.load(1).trial, (5, left), "a trial of more than a session can propose waits for the others");
}

/// Three proposals cannot tell what one of 32 tokens takes.
#[test]
fn the_best_is_near_what_was_seen() {
    let mut outlook = Outlook::new();
    let mut longest = 4;
    for _ in 0..400 {
        let gamma = outlook.gamma(1, MOST_GAMMA);
        assert!(gamma <= 2 * longest, "{gamma} after {longest}");
        longest = longest.max(gamma);
        let draft = (gamma > 0).then_some(Drafted::default());
        outlook.learn(&Observed { wanted: gamma, gamma, accepted: gamma, draft, verdict_s: 1.0, ..ALONE });
    }
    assert!(longest > 16, "{longest}");
}

#[test]
fn who_cannot_propose_what_is_tried_first_decodes_plainly() {
    assert_eq!(Outlook::new().gamma(1, 1), 0);
    assert_eq!(Outlook::new().gamma(2, 2), 2);
}

/// What passes take by their rows has steps: one token less may be much better than any that is much shorter.
#[test]
fn it_finds_the_last_one_before_a_step() {
    let takes = |gamma: usize| 1.0 + 0.04 * gamma as f64 + if gamma > 5 { 0.5 } else { 0.0 };
    let rate = |gamma: usize| expected_tokens_constant(0.8, gamma as u32) / takes(gamma);
    assert!((0..=MOST_GAMMA).all(|gamma| gamma == 5 || rate(gamma) < 0.97 * rate(5)));
    let mut lots = 0;
    let mut outlook = Outlook::new();
    let mut seen = [0; MOST_GAMMA + 1];
    for cycle in 0..12_000 {
        let gamma = outlook.gamma(1, MOST_GAMMA);
        seen[gamma] += usize::from(cycle > 4000);
        let mut is_accepted = || {
            lots += 1;
            philox4x32_10([lots, 0, 0, 0], [9, 7])[0] < (0.8 * 2f64.powi(32)) as u32
        };
        let accepted = (0..gamma).take_while(|_| is_accepted()).count();
        let draft = (gamma > 0).then(Drafted::default);
        outlook.learn(&Observed { wanted: gamma, gamma, accepted, draft, verdict_s: takes(gamma), ..ALONE });
    }
    assert!(seen[5] > 4000, "{seen:?}");
}

/// A draft that is never sure enough of `sure` tokens and one more, each of which takes 0.3 of what a verdict does, the question to
/// it as long, the first verdicts as long as of a machine that is so busy: the rate over plain decoding, and the share of cycles that
/// wanted something.
fn with_a_floor(sure: usize, accepted: impl Fn(usize) -> usize, busy: f64) -> (f64, f64) {
    let mut outlook = Outlook::new();
    let (mut emitted, mut time_s, mut asked, mut before) = (0, 0.0, 0, 0);
    const CYCLES: usize = 5000;
    for cycle in 0..CYCLES {
        let wanted = outlook.gamma(1, MOST_GAMMA);
        let gamma = wanted.min(sure);
        let accepted = accepted(gamma);
        let waited_s = if wanted > 0 { 0.3 * (2 + gamma) as f64 } else { 0.0 };
        let draft = (gamma > 0).then_some(Drafted { compute_s: 0.3 * (1 + gamma) as f64, around_s: 0.3 });
        asked += usize::from(wanted > 0);
        emitted += 1 + accepted;
        time_s += 1.0 + waited_s;
        let (ended_early, has_changed) = (gamma < wanted, wanted != before);
        let verdict_s = if cycle < 9 && wanted == 0 { busy } else { 1.0 };
        let cycle = Observed { wanted, gamma, ended_early, accepted, draft, waited_s, has_changed, verdict_s, ..ALONE };
        outlook.learn(&cycle);
        before = wanted;
    }
    (emitted as f64 / time_s, asked as f64 / CYCLES as f64)
}

/// With a confidence floor it may end each proposal before it begins, and is waited for all the same.
#[test]
fn a_draft_that_proposes_nothing_is_seldom_asked() {
    // Even where plain decoding was seen on a busy machine first.
    for busy in [1.0, 3.0] {
        let (over_plain, asked) = with_a_floor(0, |_| 0, busy);
        assert!(over_plain > 0.97 && asked < 0.05, "{over_plain} of plain decoding, {asked} of the cycles asked");
    }
}

/// What it is sure of may be worth the wait, and that it ends there costs no more than it costs.
#[test]
fn a_draft_that_ends_its_proposals_is_asked_where_they_pay() {
    let (over_plain, asked) = with_a_floor(3, |gamma| gamma, 1.0);
    // Four tokens in 2.5 verdicts.
    assert!((1.5..=1.6).contains(&over_plain) && asked > 0.9, "{over_plain} of plain decoding, {asked} asked");
    let (over_plain, asked) = with_a_floor(3, |_| 0, 1.0);
    assert!(over_plain > 0.97 && asked < 0.05, "{over_plain} of plain decoding, {asked} asked");
}
