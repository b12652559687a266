//! DDIM with eta 0 (Song et al., arXiv 2010.02502) over a linear schedule of 1000 steps.
//!
//! The schedule is computed in f64, an update in f32. It refuses step counts outside 1..=1000 and
//! assumes that the model predicts ε. Proof: the tests below, and `tests/cli/sampling.rs`,
//! which compares whole samples with numbers of an independent implementation.

use crate::error::{Error, Result};

/// Steps of the schedule that the model was trained on.
pub const TRAIN_STEPS: usize = 1000;
const BETA_FIRST: f64 = 1e-4;
const BETA_LAST: f64 = 0.02;

/// The timesteps of one sampling run and the ᾱ of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Ddim {
    timesteps: Vec<u32>,
    /// ᾱ of every timestep, then 1.
    alphas: Vec<f64>,
}

impl Ddim {
    /// A run of `steps` steps: timesteps round-half-even(linspace(999, 0, steps)).
    ///
    /// # Errors
    /// No step, or more than 1000.
    pub fn new(steps: usize) -> Result<Self> {
        if steps == 0 || steps > TRAIN_STEPS {
            return Err(Error::Unsupported(format!("{steps} steps: the schedule allows 1 to {TRAIN_STEPS}")));
        }
        let first = (TRAIN_STEPS - 1) as f64;
        let stride = if steps > 1 { -first / (steps - 1) as f64 } else { 0.0 };
        let timesteps: Vec<u32> = (0..steps)
            .map(|i| if i > 0 && i + 1 == steps { 0 } else { (first + i as f64 * stride).round_ties_even() as u32 })
            .collect();
        let all = alphas_cumprod();
        let alphas = timesteps.iter().map(|&t| all[t as usize]).chain([1.0]).collect();
        Ok(Self { timesteps, alphas })
    }

    /// The timesteps given to the model, from noise to sample.
    pub fn timesteps(&self) -> &[u32] {
        &self.timesteps
    }

    /// ᾱ of step `i` and of the one after it; 1 after the last. `i` is below the number of steps.
    pub fn alphas(&self, i: usize) -> (f64, f64) {
        (self.alphas[i], self.alphas[i + 1])
    }

    /// Takes `x` through step `i` with the model's `eps`: x0 = (x − √(1−ᾱ)·ε)/√ᾱ clipped to
    /// [−1, 1], ε recomputed from the clipped x0, then x ← √ᾱ'·x0 + √(1−ᾱ')·ε.
    ///
    /// # Errors
    /// Different lengths, or no step `i`.
    pub fn step(&self, i: usize, x: &mut [f32], eps: &[f32]) -> Result<()> {
        if x.len() != eps.len() {
            return Err(Error::Shape(format!("x has {} elements, but ε has {}: one each", x.len(), eps.len())));
        }
        if i >= self.timesteps.len() {
            return Err(Error::Shape(format!("step {i} of a run of {}", self.timesteps.len())));
        }
        let (now, next) = self.alphas(i);
        let (signal, noise) = (now.sqrt() as f32, (1.0 - now).sqrt() as f32);
        let (next_signal, next_noise) = (next.sqrt() as f32, (1.0 - next).sqrt() as f32);
        for (x, eps) in x.iter_mut().zip(eps) {
            let x0 = ((*x - noise * eps) / signal).clamp(-1.0, 1.0);
            let eps = (*x - signal * x0) / noise;
            *x = next_signal * x0 + next_noise * eps;
        }
        Ok(())
    }
}

/// Classifier-free guidance (Ho and Salimans, arXiv 2207.12598), in place of the conditional
/// half: ε ← ε∅ + w(ε_y − ε∅).
///
/// # Errors
/// Halves of different lengths.
pub fn guide(conditional: &mut [f32], null: &[f32], scale: f32) -> Result<()> {
    if conditional.len() != null.len() {
        let (a, b) = (conditional.len(), null.len());
        return Err(Error::Shape(format!("the conditional half has {a} elements, the null half {b}: one each")));
    }
    for (eps, null) in conditional.iter_mut().zip(null) {
        *eps = null + scale * (*eps - null);
    }
    Ok(())
}

/// ᾱ = cumprod(1 − β) of all training steps.
fn alphas_cumprod() -> Vec<f64> {
    let stride = (BETA_LAST - BETA_FIRST) / (TRAIN_STEPS - 1) as f64;
    let betas = (0..TRAIN_STEPS).map(|i| if i + 1 == TRAIN_STEPS { BETA_LAST } else { BETA_FIRST + i as f64 * stride });
    betas
        .scan(1.0, |product, beta| {
            *product *= 1.0 - beta;
            Some(*product)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesteps_are_rounded_half_to_even() {
        assert_eq!(Ddim::new(1).unwrap().timesteps(), [999]);
        assert_eq!(Ddim::new(2).unwrap().timesteps(), [999, 0]);
        // linspace(999, 0, 3) is 999, 499.5, 0.
        assert_eq!(Ddim::new(3).unwrap().timesteps(), [999, 500, 0]);
        // linspace(999, 0, 7): 832.5 and 166.5 go to the even neighbour, 499.5 too.
        assert_eq!(Ddim::new(7).unwrap().timesteps(), [999, 832, 666, 500, 333, 166, 0]);
        let all: Vec<u32> = (0..1000).rev().collect();
        assert_eq!(Ddim::new(1000).unwrap().timesteps(), all);
        assert!(Ddim::new(0).is_err() && Ddim::new(1001).is_err());
    }

    #[test]
    fn the_schedule_has_its_known_ends() {
        let ddim = Ddim::new(1000).unwrap();
        let (first, last) = (ddim.alphas(0).0, ddim.alphas(999));
        assert!((first - 4.035_829_765_375_694_6e-5).abs() < 1e-15, "{first:e}");
        assert_eq!(last, (1.0 - 1e-4, 1.0));
    }

    #[test]
    fn a_perfect_prediction_returns_the_sample() {
        let ddim = Ddim::new(5).unwrap();
        let (sample, eps) = ([0.25f32, -0.5, 1.0], [1.5f32, -0.5, 0.1]);
        let (alpha, _) = ddim.alphas(0);
        let mut x: Vec<f32> = sample
            .iter()
            .zip(eps)
            .map(|(s, e)| (alpha.sqrt() as f32) * s + ((1.0 - alpha).sqrt() as f32) * e)
            .collect();
        for i in 0..5 {
            ddim.step(i, &mut x, &eps).unwrap();
        }
        for (x, sample) in x.iter().zip(sample) {
            assert!((x - sample).abs() < 1e-3, "{x} is not {sample}");
        }
    }

    #[test]
    fn x0_is_clipped_and_eps_follows_it() {
        let ddim = Ddim::new(1).unwrap();
        let mut x = [5.0f32, -5.0];
        ddim.step(0, &mut x, &[0.0, 0.0]).unwrap();
        assert_eq!(x, [1.0, -1.0]);
        assert!(ddim.step(1, &mut x, &[0.0, 0.0]).is_err() && ddim.step(0, &mut x, &[0.0]).is_err());
    }

    #[test]
    fn guidance_goes_from_null_through_conditional() {
        let mut eps = [1.0f32, 2.0];
        guide(&mut eps, &[0.0, 3.0], 2.0).unwrap();
        assert_eq!(eps, [2.0, 1.0]);
        assert!(guide(&mut eps, &[0.0], 2.0).is_err());
    }
}
