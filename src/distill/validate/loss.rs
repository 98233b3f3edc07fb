//! The training loss of a student on one batch of views.

use tch::{Kind, Reduction, TchError, Tensor};

use scdd_compute::transfer;
use scdd_experiment::config::{Cooling, Loss, StudentTemperature, ValidateConfig};

/// The targets of a batch of `N` views.
pub struct Targets {
    /// The teacher's logits, `[N, K]`; absent without soft labels.
    pub teacher: Option<Tensor>,
    /// The classes of the images themselves, int64 `[N]`, or float `[N, K]` distributions.
    pub own: Tensor,
    /// Those of the images mixed in; absent without a mix.
    pub partner: Option<Tensor>,
    /// The share of the first image in a mixed view, 0..=1.
    pub share: f64,
}

/// The loss of one epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EpochObjective {
    /// A loss on the teacher's logits.
    Soft {
        loss: Loss,
        /// The softmax temperatures of teacher and student; only `Loss::Kl` uses them.
        temperatures: (f64, f64),
    },
    /// Cross entropy with the images' classes.
    Hard {
        /// Label smoothing: the share of the label that is spread evenly over all classes, 0..1.
        smoothing: f64,
        /// Whether views are mixed.
        mixed: bool,
    },
}

/// The losses of a training, epoch by epoch.
pub struct Objectives {
    config: ValidateConfig,
    epochs: u32,
    /// The student's temperature, if it is fitted.
    pub fitted: f64,
}

/// The candidates of a fitted student temperature, in hundredths (LPQLD).
const HUNDREDTHS: std::ops::RangeInclusive<u32> = 1..=100;

impl Objectives {
    /// The objectives of a training of `epochs` epochs.
    pub fn new(config: &ValidateConfig, epochs: u32) -> Self {
        Self { config: config.clone(), epochs, fitted: 1.0 }
    }

    /// The loss of epoch `epoch` (from 0).
    pub fn of(&self, epoch: u32) -> EpochObjective {
        let reached = |share: f64| f64::from(epoch) >= (share * f64::from(self.epochs)).round();
        match (self.config.hard_epochs, self.config.loss) {
            (_, Loss::Ce {}) => EpochObjective::Hard { smoothing: 0.0, mixed: false },
            (Some(hard), _) if reached(hard.from) && !reached(hard.to) => {
                EpochObjective::Hard { smoothing: hard.smoothing, mixed: true }
            }
            (_, loss) => EpochObjective::Soft { loss, temperatures: self.temperatures(epoch) },
        }
    }

    fn temperatures(&self, epoch: u32) -> (f64, f64) {
        let Loss::Kl { temperature, cooling, student_temperature, .. } = self.config.loss else {
            return (1.0, 1.0);
        };
        let teacher = cooling.map_or(temperature, |cooling| cooled(temperature, cooling, epoch));
        match student_temperature {
            StudentTemperature::Same => (teacher, teacher),
            StudentTemperature::Fitted => (teacher, self.fitted),
        }
    }

    /// Fits the student's temperature: chooses the candidate with the smallest KL divergence
    /// between `logits` and `teacher`'s, both `[N, K]`, on the last views of epoch `epoch`. Does
    /// nothing if the configuration does not fit it.
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn fit(&mut self, epoch: u32, logits: &Tensor, teacher: &Tensor) -> Result<(), TchError> {
        if !matches!(
            self.config.loss,
            Loss::Kl { student_temperature: StudentTemperature::Fitted, .. }
        ) {
            return Ok(());
        }
        let double = |t: &Tensor| t.f_detach()?.f_to_kind(Kind::Double);
        let (logits, teacher) = (double(logits)?, double(teacher)?);
        let candidates: Vec<f64> = HUNDREDTHS.map(|share| f64::from(share) / 100.0).collect();
        let temperature = self.temperatures(epoch).0;
        let divergence = |&candidate: &f64| kl(&logits, &teacher, (temperature, candidate));
        let divergences = candidates.iter().map(divergence).collect::<Result<Vec<_>, _>>()?;
        let read = transfer::read(&Tensor::f_stack(&divergences, 0)?)?;
        let mut least = f64::INFINITY;
        for (candidate, divergence) in candidates.into_iter().zip(read) {
            if divergence < least {
                (least, self.fitted) = (divergence, candidate);
            }
        }
        Ok(())
    }
}

/// The temperature after cooling. As in LPQLD's code, epochs count from 1.
fn cooled(temperature: f64, cooling: Cooling, epoch: u32) -> f64 {
    let steps = (epoch + 1) / cooling.every.max(1);
    (temperature * cooling.factor.powi(steps as i32)).max(cooling.floor)
}

impl Targets {
    /// The loss of the student's `logits` `[N, K]`, a scalar.
    ///
    /// # Errors
    /// When logits and targets have different shapes, or a soft loss has no teacher logits.
    pub fn loss(&self, logits: &Tensor, objective: EpochObjective) -> Result<Tensor, TchError> {
        let (loss, temperatures) = match objective {
            EpochObjective::Hard { smoothing, .. } => return self.cross_entropy(logits, smoothing),
            EpochObjective::Soft { loss, temperatures } => (loss, temperatures),
        };
        let missing = || TchError::Shape("a soft loss, but no teacher's answers".into());
        let teacher = self.teacher.as_ref().ok_or_else(missing)?;
        match loss {
            Loss::Kl { ce, t_squared, .. } => {
                let divergence = kl(logits, teacher, temperatures)?;
                let (temperature, _) = temperatures;
                let divergence = if t_squared {
                    divergence.f_mul_scalar(temperature * temperature)?
                } else {
                    divergence
                };
                self.with_classes(divergence, logits, ce)
            }
            Loss::MseGt { ce } => {
                self.with_classes(logits.f_mse_loss(teacher, Reduction::Mean)?, logits, ce)
            }
            Loss::Gift { smoothing, weight } => {
                let classes = self.smoothed(logits.size()[1], smoothing)?;
                let target = unit(teacher)?.f_add(&unit(&classes)?.f_mul_scalar(weight)?)?;
                let similarity =
                    Tensor::f_cosine_similarity(logits, &target, 1, 1e-8)?.f_mean(None::<Kind>)?;
                similarity.f_neg()?.f_add_scalar(1.0)
            }
            Loss::Ce {} => self.cross_entropy(logits, 0.0),
        }
    }

    /// The targets of `length` views from `start` on.
    ///
    /// # Errors
    /// When there are fewer views.
    pub fn part(&self, start: i64, length: i64) -> Result<Self, TchError> {
        let part = |t: &Tensor| t.f_narrow(0, start, length);
        Ok(Self {
            teacher: self.teacher.as_ref().map(part).transpose()?,
            own: part(&self.own)?,
            partner: self.partner.as_ref().map(part).transpose()?,
            share: self.share,
        })
    }

    /// `soft` plus `weight` times the cross entropy with the images' classes.
    fn with_classes(&self, soft: Tensor, logits: &Tensor, weight: f64) -> Result<Tensor, TchError> {
        if weight == 0.0 {
            return Ok(soft);
        }
        soft.f_add(&self.cross_entropy(logits, 0.0)?.f_mul_scalar(weight)?)
    }

    /// Cross entropy with the classes of both mixed images, weighted by their shares (CutMix, arXiv
    /// 1905.04899), mean over the batch. `smoothing` of each label is spread evenly over all
    /// classes.
    fn cross_entropy(&self, logits: &Tensor, smoothing: f64) -> Result<Tensor, TchError> {
        let to = |classes: &Tensor| {
            logits.f_cross_entropy_loss::<Tensor>(classes, None, Reduction::Mean, -100, smoothing)
        };
        match &self.partner {
            None => to(&self.own),
            Some(partner) => to(&self.own)?
                .f_mul_scalar(self.share)?
                .f_add(&to(partner)?.f_mul_scalar(1.0 - self.share)?),
        }
    }

    /// The classes of both mixed images, weighted by their shares, as float `[N, classes]`.
    /// `smoothing` of each label goes to the other classes.
    fn smoothed(&self, classes: i64, smoothing: f64) -> Result<Tensor, TchError> {
        let others = smoothing / (classes - 1).max(1) as f64;
        let one_hot = |own: &Tensor| {
            let one_hot = own.f_one_hot(classes)?.f_to_kind(Kind::Float)?;
            one_hot.f_mul_scalar(1.0 - smoothing - others)?.f_add_scalar(others)
        };
        match &self.partner {
            None => one_hot(&self.own),
            Some(partner) => one_hot(&self.own)?
                .f_mul_scalar(self.share)?
                .f_add(&one_hot(partner)?.f_mul_scalar(1.0 - self.share)?),
        }
    }
}

/// The rows of `t` `[N, K]`, normalised to length 1.
fn unit(t: &Tensor) -> Result<Tensor, TchError> {
    t.f_div(&t.f_norm_scalaropt_dim(2, [1], true)?.f_clamp_min(1e-12)?)
}

/// KL(teacher ‖ student) of the softmax at the `temperatures` of teacher and student, mean over the
/// batch.
fn kl(student: &Tensor, teacher: &Tensor, temperatures: (f64, f64)) -> Result<Tensor, TchError> {
    let soften =
        |t: &Tensor, temperature| t.f_div_scalar(temperature)?.f_log_softmax(-1, None::<Kind>);
    let (student, teacher) = (soften(student, temperatures.1)?, soften(teacher, temperatures.0)?);
    let batch = student.size()[0] as f64;
    teacher.f_exp()?.f_mul(&teacher.f_sub(&student)?)?.f_sum(None::<Kind>)?.f_div_scalar(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scdd_experiment::config::HardEpochs;

    const KL: f64 = 0.1966624778;
    const MSE: f64 = 7.4270833333;
    const MIXED_CE: f64 = 1.0668165519;
    const OWN_CE: f64 = 0.5418165519;

    fn logits() -> Tensor {
        Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0, 0.25, -1.0]).reshape([2, 3])
    }

    fn targets() -> Targets {
        Targets {
            teacher: Some(Tensor::from_slice(&[0.0f32, 1.0, 2.0, -1.0, 4.0, 0.5]).reshape([2, 3])),
            own: Tensor::from_slice(&[2i64, 0]),
            partner: Some(Tensor::from_slice(&[0i64, 2])),
            share: 0.7,
        }
    }

    fn unmixed() -> Targets {
        Targets { partner: None, share: 1.0, ..targets() }
    }

    fn kl_loss(temperature: f64, ce: f64) -> Loss {
        let (t_squared, cooling, student_temperature) = Default::default();
        Loss::Kl { temperature, ce, t_squared, cooling, student_temperature }
    }

    fn training(loss: Loss) -> ValidateConfig {
        let text = "loss: {type: ce}\noptimizer: {type: adamw, learning_rate: 0.001, weight_decay: 0}\n\
                    schedule: {type: linear}\nema: 0\nevaluate_every: 1\n";
        ValidateConfig { loss, ..serde_yaml::from_str(text).unwrap() }
    }

    /// The results of `goldens/make_losses.py`.
    fn golden() -> serde_json::Value {
        serde_json::from_str(include_str!("../../../tests/goldens/losses.json")).unwrap()
    }

    fn value(targets: &Targets, objective: EpochObjective) -> f64 {
        f64::try_from(targets.loss(&logits(), objective).unwrap()).unwrap()
    }

    fn first(loss: Loss) -> EpochObjective {
        Objectives::new(&training(loss), 10).of(0)
    }

    fn near(found: f64, expected: f64, what: &str) {
        let allowed = 1e-6 * expected.abs().max(1.0);
        assert!((found - expected).abs() < allowed, "{what}: {found} instead of {expected}");
    }

    /// Expected values from `torch.nn.functional`:
    /// `kl_div(log_softmax(s/4), softmax(t/4), "batchmean")`, `mse_loss(s, t)`, and `0.7 *
    /// cross_entropy(s, own) + 0.3 * cross_entropy(s, partner)`.
    #[test]
    fn losses_equal_pytorch() {
        let (mixed, plain) = (targets(), unmixed());
        let cases = [
            (&mixed, kl_loss(4.0, 0.0), KL),
            (&mixed, kl_loss(4.0, 0.5), KL + 0.5 * MIXED_CE),
            (&mixed, Loss::MseGt { ce: 0.0 }, MSE),
            (&mixed, Loss::MseGt { ce: 0.025 }, MSE + 0.025 * MIXED_CE),
            (&mixed, Loss::Ce {}, MIXED_CE),
            (&plain, Loss::Ce {}, OWN_CE),
        ];
        for (targets, loss, expected) in cases {
            near(value(targets, first(loss)), expected, &format!("{loss:?}"));
        }
    }

    /// The mean of `-sum(p * log_softmax(s))` over the batch, with `p` mixed by the views' share.
    #[test]
    fn distributions_take_the_place_of_classes() {
        let logits: [[f64; 3]; 2] = [[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]];
        let own: [[f64; 3]; 2] = [[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]];
        let tensor = |rows: [[f64; 3]; 2]| Tensor::from_slice2(&rows).to_kind(Kind::Float);
        let cross_entropy = |target: [f64; 3], row: [f64; 3]| -> f64 {
            let log_sum = row.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            target.iter().zip(row).map(|(p, logit)| -p * (logit - log_sum)).sum()
        };
        let mix = |a: [f64; 3], b: [f64; 3]| [0, 1, 2].map(|k| 0.7 * a[k] + 0.3 * b[k]);
        let of = |targets: [[f64; 3]; 2]| {
            (cross_entropy(targets[0], logits[0]) + cross_entropy(targets[1], logits[1])) / 2.0
        };
        let plain = Targets { teacher: None, own: tensor(own), partner: None, share: 1.0 };
        near(value(&plain, first(Loss::Ce {})), of(own), "plain views");
        let partner = Some(tensor([own[1], own[0]]));
        let mixed = Targets { partner, share: 0.7, ..plain };
        let expected = of([mix(own[0], own[1]), mix(own[1], own[0])]);
        near(value(&mixed, first(Loss::Ce {})), expected, "mixed views");
    }

    #[test]
    fn published_losses_equal_their_code() {
        let golden = golden();
        let expected = |name: &str| golden[name].as_f64().unwrap();
        let (cooling, student_temperature) = Default::default();
        let squared =
            Loss::Kl { temperature: 4.0, ce: 0.0, t_squared: true, cooling, student_temperature };
        near(value(&targets(), first(squared)), expected("kl_t_squared"), "squared temperature");
        let two = EpochObjective::Soft { loss: kl_loss(4.0, 0.0), temperatures: (4.0, 0.5) };
        near(value(&targets(), two), expected("kl_two_temperatures"), "two temperatures");
        near(
            value(&targets(), EpochObjective::Hard { smoothing: 0.8, mixed: true }),
            expected("smoothed_ce"),
            "smoothing",
        );
        let gift = first(Loss::Gift { smoothing: 0.1, weight: 0.1 });
        near(value(&unmixed(), gift), expected("gift"), "GIFT");
        near(value(&targets(), gift), expected("gift_mixed"), "GIFT of mixed views");
    }

    #[test]
    fn parts_of_a_batch_sum_to_its_loss() {
        let whole = targets();
        for loss in [
            kl_loss(4.0, 0.5),
            Loss::MseGt { ce: 0.1 },
            Loss::Gift { smoothing: 0.1, weight: 0.1 },
            Loss::Ce {},
        ] {
            let of = |start| {
                let part = whole
                    .part(start, 1)
                    .unwrap()
                    .loss(&logits().narrow(0, start, 1), first(loss))
                    .unwrap();
                f64::try_from(part).unwrap() / 2.0
            };
            near(of(0) + of(1), value(&whole, first(loss)), &format!("{loss:?}"));
        }
        assert!(whole.part(1, 2).is_err());
    }

    #[test]
    fn the_temperature_falls_as_in_lpqld() {
        let loss = Loss::Kl {
            temperature: 20.0,
            ce: 0.0,
            t_squared: false,
            cooling: Some(Cooling { factor: 0.7, every: 30, floor: 2.0 }),
            student_temperature: StudentTemperature::Fitted,
        };
        let objectives = Objectives::new(&training(loss), 300);
        for (epoch, expected) in golden()["cooled"].as_object().unwrap() {
            let EpochObjective::Soft { temperatures, .. } =
                objectives.of(epoch.parse::<u32>().unwrap() - 1)
            else {
                panic!()
            };
            assert!(
                (temperatures.0 - expected.as_f64().unwrap()).abs() < 1e-12,
                "epoch {epoch}: {temperatures:?}"
            );
            assert_eq!(temperatures.1, 1.0);
        }
    }

    #[test]
    fn the_students_temperature_is_fitted_as_in_lpqld() {
        let teacher = targets().teacher.unwrap();
        let student = &teacher * 0.2 + logits() * 0.05;
        for (temperature, expected) in golden()["fitted"].as_object().unwrap() {
            let (ce, t_squared, cooling) = Default::default();
            let student_temperature = StudentTemperature::Fitted;
            let temperature = temperature.parse().unwrap();
            let loss = Loss::Kl { temperature, ce, t_squared, cooling, student_temperature };
            let mut objectives = Objectives::new(&training(loss), 2);
            let before = transfer::count();
            objectives.fit(0, &student, &teacher).unwrap();
            assert_eq!(transfer::count() - before, 1, "the candidates are read together");
            let EpochObjective::Soft { temperatures, .. } = objectives.of(1) else { panic!() };
            assert_eq!(temperatures.0, temperature);
            near(temperatures.1, expected.as_f64().unwrap(), "the student's temperature");
        }
    }

    #[test]
    fn hard_epochs_are_in_the_middle() {
        let hard_epochs = Some(HardEpochs { from: 0.25, to: 0.75, smoothing: 0.8 });
        let objectives =
            Objectives::new(&ValidateConfig { hard_epochs, ..training(kl_loss(20.0, 0.0)) }, 300);
        let hard = EpochObjective::Hard { smoothing: 0.8, mixed: true };
        let found: Vec<u32> = (0..300).filter(|&epoch| objectives.of(epoch) == hard).collect();
        assert_eq!(found, (75..225).collect::<Vec<_>>());
        let alone = Objectives::new(&training(Loss::Ce {}), 300);
        assert!(
            (0..300)
                .all(|epoch| alone.of(epoch)
                    == EpochObjective::Hard { smoothing: 0.0, mixed: false })
        );
    }

    #[test]
    fn kl_of_equals_is_zero() {
        let found = f64::try_from(kl(&logits(), &logits(), (4.0, 4.0)).unwrap()).unwrap();
        assert!(found.abs() < 1e-7, "{found}");
    }

    #[test]
    fn a_soft_loss_needs_a_teacher() {
        let alone = Targets { teacher: None, ..unmixed() };
        let error = alone.loss(&logits(), first(kl_loss(4.0, 0.0))).unwrap_err().to_string();
        assert!(error.contains("no teacher's answers"), "{error}");
    }
}
