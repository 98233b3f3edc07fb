//! The teachers of a recovery, and their loss and gradient on a batch: of one teacher in turn, or
//! of all together.

use tch::{Device, Kind, TchError, Tensor};

use super::adjust::adjusted;
use super::plan_cache::PlanCache;
use super::{RecoverError, alignment};
use crate::teacher::{Bundle, LayerStatistics};
use scdd_compute::replica::{Replica, ReplicaError};
use scdd_compute::synthesis::{Momentum, Objective, PlanOptions, SynthesisPlan, TermGradients};
use scdd_experiment::config::{BnWeight, RecoverConfig, Turn};

/// One teacher, ready for synthesis.
struct CommitteeMember<'a> {
    bundle: &'a Bundle,
    r_bn: f64,
    plans: PlanCache,
    device: Device,
    /// The weight of this teacher's loss where all are evaluated.
    weight: f64,
}

/// One or several teachers for the same images.
pub struct TeacherCommittee<'a> {
    members: Vec<CommitteeMember<'a>>,
    config: &'a RecoverConfig,
    turn: Turn,
    device: Device,
}

/// The objective of one batch: its target classes, and one evaluator per teacher.
pub struct BatchObjective {
    /// Target classes, int64 `[N]`.
    targets: Tensor,
    /// One per teacher.
    evaluators: Vec<Evaluator>,
}

enum Evaluator {
    Plan(Box<SynthesisPlan>),
    /// For patch statistics, which a plan does not support.
    Replica(Replica, Objective),
}

impl<'a> TeacherCommittee<'a> {
    /// A committee of the recovery's own teacher `bundle` and the teachers that `config.committee`
    /// names.
    ///
    /// # Errors
    /// When a bundle lacks the statistics or the classifier that the loss needs, or does not fit
    /// the first bundle.
    pub fn new(
        bundle: &'a Bundle,
        others: &[&'a Bundle],
        config: &'a RecoverConfig,
        balances: &[f64],
        options: PlanOptions,
    ) -> Result<Self, RecoverError> {
        let committee = config.committee.as_ref();
        let weights = committee.map_or(&[][..], |c| &c.weights);
        let weights =
            if weights.is_empty() { vec![1.0; 1 + others.len()] } else { weights.to_vec() };
        let total: f64 = weights.iter().sum();
        let member = |(number, (member, weight)): (usize, (&'a Bundle, f64))| {
            let measured = || balances.get(number).copied();
            let r_bn = match config.r_bn {
                BnWeight::Fixed(weight) => Some(weight),
                BnWeight::Auto => measured(),
            };
            let not_balanced = || RecoverError::NotBalanced { teacher: member.name().into() };
            let r_bn = r_bn.ok_or_else(not_balanced)?;
            check(member, bundle, config, r_bn)?;
            let plans = PlanCache::new(member.graph.clone(), options.clone());
            Ok(CommitteeMember {
                bundle: member,
                r_bn,
                plans,
                device: options.device,
                weight: weight / total,
            })
        };
        let bundles = [bundle].into_iter().chain(others.iter().copied());
        let members =
            bundles.zip(weights).enumerate().map(member).collect::<Result<_, RecoverError>>()?;
        Ok(Self {
            members,
            config,
            turn: committee.map_or(Turn::RoundRobin, |c| c.turn),
            device: options.device,
        })
    }

    /// The objective of a batch of these `classes`, one per image; `seen` `[N, C, H, W]` is the
    /// batch's first view, on the committee's device.
    ///
    /// # Errors
    /// When a teacher can't be run, or libtorch fails.
    pub fn objective(
        &self,
        classes: &[u32],
        seen: &Tensor,
    ) -> Result<BatchObjective, RecoverError> {
        let targets: Vec<i64> = classes.iter().map(|&class| i64::from(class)).collect();
        let targets = Tensor::from_slice(&targets).to_device(self.device);
        let evaluators = self
            .members
            .iter()
            .map(|member| member.evaluator(self.config, classes, seen, &targets));
        let evaluators = evaluators.collect::<Result<_, _>>()?;
        Ok(BatchObjective { targets, evaluators })
    }

    /// The moving averages of statistics: member, layer, mean and variance.
    pub fn statistics(&self, batch: &BatchObjective) -> Vec<(usize, usize, [Tensor; 2])> {
        let of_member = |(member, evaluator): (usize, &Evaluator)| {
            let averages = evaluator.momentum().averages().into_iter();
            averages.map(|(layer, parts)| (member, layer, parts)).collect::<Vec<_>>()
        };
        batch.evaluators.iter().enumerate().flat_map(of_member).collect()
    }

    /// Goes on with these moving averages of statistics.
    pub fn restore(&self, batch: &BatchObjective, statistics: &[(usize, usize, [Tensor; 2])]) {
        for (member, evaluator) in batch.evaluators.iter().enumerate() {
            let own = statistics.iter().filter(|(of, ..)| *of == member);
            let averages = own.map(|(_, layer, [mean, var])| {
                let place = |tensor: &Tensor| tensor.to_device(self.device);
                (*layer, [place(mean), place(var)])
            });
            evaluator.momentum().restore(averages);
        }
    }

    /// Keeps what can serve the next batch, unless that has other weights.
    pub fn keep(&self, batch: BatchObjective) {
        if self.config.weight_adjustment.is_some() {
            return;
        }
        for (member, evaluator) in self.members.iter().zip(batch.evaluators) {
            if let Evaluator::Plan(plan) = evaluator {
                member.plans.keep(*plan);
            }
        }
    }

    /// The loss of the views `seen` `[N, C, H, W]`, on the committee's device, at step `iteration`:
    /// loss, cross entropy and BN term, float64 `[3]`; and its gradient. Does not wait for a GPU.
    ///
    /// # Errors
    /// When a teacher can't be run.
    pub fn evaluate(
        &self,
        seen: &Tensor,
        batch: &mut BatchObjective,
        iteration: u32,
    ) -> Result<[Tensor; 2], RecoverError> {
        let BatchObjective { targets, evaluators } = batch;
        if let Some(turn) = self.turn(iteration) {
            return self.members[turn].evaluate(seen, targets, &mut evaluators[turn]);
        }
        let mut terms = Tensor::zeros([3], (Kind::Double, self.device));
        let mut gradient = seen.zeros_like();
        for (member, evaluator) in self.members.iter().zip(evaluators) {
            let [own_terms, own_gradient] = member.evaluate(seen, targets, evaluator)?;
            let torch = |source| member.torch(source);
            terms = weighted(&own_terms, member.weight, &terms).map_err(torch)?;
            gradient = weighted(&own_gradient, member.weight, &gradient).map_err(torch)?;
        }
        Ok([terms, gradient])
    }

    /// The gradients of cross entropy and of the weighted statistics term that
    /// [`evaluate`](Self::evaluate) adds up. `None` if the loss lacks one of them.
    ///
    /// # Errors
    /// When a teacher can't be run.
    pub fn term_gradients(
        &self,
        seen: &Tensor,
        batch: &mut BatchObjective,
        iteration: u32,
    ) -> Result<Option<[Tensor; 2]>, RecoverError> {
        let BatchObjective { targets, evaluators } = batch;
        if let Some(turn) = self.turn(iteration) {
            return self.members[turn].term_gradients(seen, targets, &mut evaluators[turn]);
        }
        let mut sums = [(); 2].map(|()| seen.zeros_like());
        for (member, evaluator) in self.members.iter().zip(evaluators) {
            let Some(own) = member.term_gradients(seen, targets, evaluator)? else {
                return Ok(None);
            };
            for (sum, own) in sums.iter_mut().zip(&own) {
                *sum = weighted(own, member.weight, sum).map_err(|source| member.torch(source))?;
            }
        }
        Ok(Some(sums))
    }

    /// The index of the only teacher of this step; `None` if all are asked.
    fn turn(&self, iteration: u32) -> Option<usize> {
        let alone = self.turn == Turn::RoundRobin || self.members.len() == 1;
        alone.then(|| iteration as usize % self.members.len())
    }
}

impl Evaluator {
    fn momentum(&self) -> &Momentum {
        match self {
            Evaluator::Plan(plan) => plan.momentum(),
            Evaluator::Replica(_, objective) => &objective.momentum,
        }
    }
}

impl CommitteeMember<'_> {
    fn torch(&self, source: TchError) -> RecoverError {
        RecoverError::Torch { teacher: self.bundle.name().into(), source }
    }

    fn replica(&self, source: ReplicaError) -> RecoverError {
        RecoverError::Replica { teacher: self.bundle.name().into(), source }
    }

    fn evaluator(
        &self,
        config: &RecoverConfig,
        classes: &[u32],
        seen: &Tensor,
        targets: &Tensor,
    ) -> Result<Evaluator, RecoverError> {
        let device = self.device;
        let graph = match config.weight_adjustment {
            Some(adjustment) => adjusted(self.bundle, adjustment, seen, targets, device)?,
            None => self.bundle.graph.clone(),
        };
        let objective = alignment::objective(self.bundle, config, self.r_bn, classes, device)
            .map_err(|e| self.torch(e))?;
        if objective.layers.iter().any(|layer| layer.patches > 1) {
            return Ok(Evaluator::Replica(
                Replica::new(graph, device).map_err(|e| self.replica(e))?,
                objective,
            ));
        }
        let (n, c, h, w) = seen.size4().map_err(|e| self.torch(e))?;
        let shape = [n, c, h, w];
        let plan = match config.weight_adjustment {
            Some(_) => self.plans.compile(&graph, &objective, shape),
            None => self.plans.plan(&objective, shape),
        };
        Ok(Evaluator::Plan(Box::new(plan.map_err(|e| self.replica(e))?)))
    }

    /// The terms and gradient of one teacher. Without a classifier there is no cross entropy term,
    /// and the targets are not used.
    fn evaluate(
        &self,
        seen: &Tensor,
        targets: &Tensor,
        evaluator: &mut Evaluator,
    ) -> Result<[Tensor; 2], RecoverError> {
        let targets = (!self.bundle.manifest.is_features_only()).then_some(targets);
        let found = match evaluator {
            Evaluator::Plan(plan) => plan.evaluate_unread(seen, targets),
            Evaluator::Replica(replica, objective) => {
                replica.evaluate_unread(seen, targets, objective)
            }
        };
        let found = found.map_err(|e| self.replica(e))?;
        Ok([found.terms, found.gradient])
    }

    /// The gradients of cross entropy and of the weighted statistics term; `None` without a
    /// classifier or without statistics.
    fn term_gradients(
        &self,
        seen: &Tensor,
        targets: &Tensor,
        evaluator: &mut Evaluator,
    ) -> Result<Option<[Tensor; 2]>, RecoverError> {
        if self.bundle.manifest.is_features_only() || self.r_bn == 0.0 {
            return Ok(None);
        }
        let found = match evaluator {
            Evaluator::Plan(plan) => plan.term_gradients(seen, targets),
            Evaluator::Replica(replica, objective) => {
                replica.term_gradients(seen, targets, objective)
            }
        };
        let TermGradients { ce, bn } = found.map_err(|e| self.replica(e))?;
        Ok(Some([ce, bn]))
    }
}

/// `sum` + `weight` · `tensor`.
fn weighted(tensor: &Tensor, weight: f64, sum: &Tensor) -> Result<Tensor, TchError> {
    sum.f_add(&tensor.f_mul_scalar(weight)?)
}

/// Checks that the bundle supports the loss, and that its preprocessing equals that of the `first`
/// one.
fn check(
    bundle: &Bundle,
    first: &Bundle,
    config: &RecoverConfig,
    r_bn: f64,
) -> Result<(), RecoverError> {
    if let Some(why) = bundle.without_statistics().filter(|_| r_bn > 0.0) {
        return Err(RecoverError::NoStatistics { teacher: bundle.name().into(), why });
    }
    if config.class_share > 0.0 && bundle.layers.iter().any(|layer| layer.per_class.is_none()) {
        return Err(RecoverError::NoClassStatistics { teacher: bundle.name().into() });
    }
    let missing = |layer: &LayerStatistics| {
        layer
            .patches
            .as_ref()
            .is_none_or(|patches| config.class_share > 0.0 && patches.per_class.is_none())
    };
    if config.r_patch > 0.0 && bundle.layers.iter().any(missing) {
        return Err(RecoverError::NoPatchStatistics { teacher: bundle.name().into() });
    }
    if let Some(why) = bundle.without_classifier().filter(|_| config.weight_adjustment.is_some()) {
        return Err(RecoverError::NoAdjustment { teacher: bundle.name().into(), why });
    }
    if let Some(why) = bundle.without_classifier().filter(|_| r_bn == 0.0) {
        return Err(RecoverError::NoLoss { why });
    }
    let (own, other) = (&bundle.manifest.preprocessing, &first.manifest.preprocessing);
    if bundle.image_shape() != first.image_shape()
        || (&own.mean, &own.std) != (&other.mean, &other.std)
    {
        return Err(RecoverError::Unlike {
            teacher: bundle.name().into(),
            first: first.name().into(),
        });
    }
    Ok(())
}
