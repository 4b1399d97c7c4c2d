//! The tensors of a model: fused in memory where that saves operations, under Hugging Face's names
//! on disk.
//!
//! A [`Weight`] is one tensor in memory made of one or more [`Piece`]s, tensors on disk:
//! projections of the same input are one behind the other, the experts of a layer are one stack.
//! Loading, saving, initialising and counting all use the same list, which an architecture's
//! `build` makes.

use crate::error::{ModelError, Result};
use crate::expert_group::ExpertGroup;
use r1d_torch::work;
use tch::{Device, Kind, Tensor};

/// The initial values of a fresh model's tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initial {
    /// Normal(0, `initializer_range`²).
    Normal,
    Ones,
    Zeros,
    /// Uniform(−1/√columns, 1/√columns), as peft initialises an adapter's A (He et al. 2015 with a
    /// = √5).
    KaimingUniform,
}

/// A tensor on disk and its place in memory: `shape[0]` rows from `start`, in `expert`'s layer of
/// the stack if that is given.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub name: String,
    pub shape: Vec<i64>,
    pub initial: Initial,
    expert: Option<Expert>,
    start: i64,
    /// Row i in memory is row `order[i]` on disk.
    order: Option<Vec<i64>>,
}

/// The expert that a piece is of.
#[derive(Clone, Copy, Debug)]
struct Expert {
    /// Its number among all of its layer.
    number: i64,
    /// Its layer in the stack, in which a rank has its own experts.
    at: i64,
}

/// Bytes on disk that are copied at a time.
const PART_BYTES: i64 = 64 << 20;

pub(crate) struct Weight {
    /// The name on disk if there is one piece; otherwise a name of the same pattern.
    pub name: String,
    pub tensor: Tensor,
    pub shape: Vec<i64>,
    pub pieces: Vec<Piece>,
    /// Whether it is trained. Buffers are not, and stay float32.
    pub trained: bool,
    /// Whether it is float32 at least, in memory and on disk, whatever the model's dtype.
    pub wide: bool,
}

impl Weight {
    /// A copy in its own storage.
    pub(crate) fn copy(&self) -> Result<Weight> {
        let tensor = own(&self.tensor, self.tensor.kind(), self.tensor.device())?;
        Ok(Weight {
            name: self.name.clone(),
            tensor,
            shape: self.shape.clone(),
            pieces: self.pieces.clone(),
            trained: self.trained,
            wide: self.wide,
        })
    }

    /// Its dtype in a model, or a file, of `kind`.
    pub(crate) fn kind_within(&self, kind: Kind) -> Kind {
        kind_within(kind, self.trained, self.wide)
    }
}

fn kind_within(kind: Kind, trained: bool, wide: bool) -> Kind {
    match kind {
        Kind::Double if trained => kind,
        _ if wide || !trained => Kind::Float,
        _ => kind,
    }
}

impl Piece {
    /// The first row in memory.
    pub(crate) fn start(&self) -> i64 {
        self.start
    }

    /// This piece's layer of a stack, or the matrix itself if it is no expert's: `stack` may be the
    /// piece's own or one with a layer for each of the same experts.
    pub(crate) fn layer(&self, stack: &Tensor) -> Result<Tensor> {
        Ok(match self.expert {
            Some(Expert { at, .. }) => stack.f_select(0, at)?,
            None => stack.shallow_clone(),
        })
    }

    /// The number of the expert whose matrix it is; `None` if it is no expert's.
    pub(crate) fn expert(&self) -> Option<i64> {
        self.expert.map(|expert| expert.number)
    }

    /// Whether it is the first of its stack.
    pub(crate) fn is_first(&self) -> bool {
        self.expert.is_some_and(|expert| expert.at == 0)
    }

    /// The same matrix of the expert `number`, of whose stack it has the same layer.
    pub(crate) fn of_expert(&self, number: i64) -> Piece {
        let part = |expert: i64| format!(".experts.{expert}.");
        let (name, expert) = match self.expert {
            Some(own) => {
                let name = self.name.replacen(&part(own.number), &part(number), 1);
                (name, Some(Expert { number, ..own }))
            }
            None => (self.name.clone(), None),
        };
        Piece {
            name,
            expert,
            ..self.clone()
        }
    }

    /// The order of the rows: row i in memory is row `order[i]` on disk.
    pub(crate) fn order(&self) -> Option<&[i64]> {
        self.order.as_deref()
    }

    /// The part of `memory` that this piece fills, as a view.
    pub(crate) fn place(&self, memory: &Tensor) -> Result<Tensor> {
        Ok(self.layer(memory)?.f_narrow(0, self.start, self.shape[0])?)
    }

    /// Writes `disk` (any float dtype, any device) to its place in `memory`, some rows at a time,
    /// because a mapped file is read as it is copied, which may take long.
    pub(crate) fn write(&self, memory: &Tensor, disk: &Tensor) -> Result<()> {
        let (place, rows) = (self.place(memory)?, self.shape[0]);
        let row_bytes = (disk.numel() * disk.kind().elt_size_in_bytes()) as i64 / rows.max(1);
        let step = (PART_BYTES / row_bytes.max(1)).max(1);
        for start in (0..rows).step_by(step as usize) {
            let count = step.min(rows - start);
            let part = match &self.order {
                Some(order) => {
                    let order = &order[start as usize..(start + count) as usize];
                    disk.f_index_select(
                        0,
                        &Tensor::f_from_slice(order)?.f_to_device(disk.device())?,
                    )?
                }
                None => disk.f_narrow(0, start, count)?,
            };
            place.f_narrow(0, start, count)?.f_copy_(&part)?;
            work::moved((count * row_bytes) as u64);
        }
        Ok(())
    }

    /// Whether all values of this piece of `memory` are finite.
    pub(crate) fn is_finite(&self, memory: &Tensor) -> Result<bool> {
        // A sum is not finite if a term is not, and the sum of finite weights does not reach
        // infinity.
        let place = self.place(memory)?;
        Ok(f64::try_from(place.f_sum(place.kind())?)?.is_finite())
    }

    /// Reads this piece from memory in its order on disk.
    pub(crate) fn read(&self, memory: &Tensor) -> Result<Tensor> {
        self.in_disk_order(self.place(memory)?)
    }

    /// Puts this piece's rows, which are in the order of memory, into that on disk.
    pub(crate) fn in_disk_order(&self, place: Tensor) -> Result<Tensor> {
        let Some(order) = &self.order else {
            return Ok(place);
        };
        let mut back = vec![0; order.len()];
        for (row, &from) in (0..).zip(order) {
            back[from as usize] = row;
        }
        Ok(place.f_index_select(
            0,
            &Tensor::f_from_slice(&back)?.f_to_device(place.device())?,
        )?)
    }
}

/// Copies a tensor's values into their own storage, without its history.
pub(crate) fn own(tensor: &Tensor, kind: Kind, device: Device) -> Result<Tensor> {
    let own = Tensor::f_empty(tensor.size(), (kind, device))?;
    tch::no_grad(|| own.shallow_clone().f_copy_(tensor))?;
    work::moved(0);
    Ok(own)
}

/// Copies the weights of `from` into the storage of `to`; both lists have the same names and
/// shapes.
pub(crate) fn copy(to: &[Weight], from: &[Weight]) -> Result<()> {
    let same = |a: &Weight, b: &Weight| a.name == b.name && a.shape == b.shape;
    if to.len() != from.len() || !to.iter().zip(from).all(|(a, b)| same(a, b)) {
        return Err(ModelError::Input(
            "weights can only be copied between models of the same shape".into(),
        ));
    }
    tch::no_grad(|| {
        for (to, from) in to.iter().zip(from) {
            to.tensor.shallow_clone().f_copy_(&from.tensor)?;
            work::moved(0);
        }
        Ok(())
    })
}

/// Supplies the tensors while a model is built.
pub(crate) trait Source {
    /// The next tensor, if it already exists and is taken as it is.
    fn ready(&mut self) -> Option<Tensor> {
        None
    }

    /// Fills `memory`'s part of `piece`.
    fn fill(&mut self, piece: &Piece, memory: &Tensor) -> Result<()>;
}

/// Rows of a fused matrix that come from one tensor on disk.
pub(crate) struct Rows<'a> {
    pub name: &'a str,
    pub count: i64,
    pub order: Option<Vec<i64>>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(name: &'a str, count: i64) -> Rows<'a> {
        Rows {
            name,
            count,
            order: None,
        }
    }

    pub(crate) fn reordered(name: &'a str, count: i64, order: Option<Vec<i64>>) -> Rows<'a> {
        Rows { name, count, order }
    }
}

/// Collects a model's weights, and fills each when it is requested.
pub(crate) struct Builder<'a> {
    /// Supplies the values. `None`: only shapes are collected, nothing is allocated.
    source: Option<&'a mut dyn Source>,
    device: Device,
    kind: Kind,
    /// The ranks that the experts are shared with; `None`: all are here.
    expert_group: Option<ExpertGroup>,
    pub weights: Vec<Weight>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(source: &'a mut dyn Source, device: Device, kind: Kind) -> Builder<'a> {
        Builder {
            source: Some(source),
            device,
            kind,
            expert_group: None,
            weights: Vec::new(),
        }
    }

    /// Collects only this rank's shard of the experts.
    pub(crate) fn in_group(self, expert_group: Option<ExpertGroup>) -> Builder<'a> {
        Builder {
            expert_group,
            ..self
        }
    }

    /// The ranks that the experts are shared with.
    pub(crate) fn expert_group(&self) -> Option<&ExpertGroup> {
        self.expert_group.as_ref()
    }

    pub(crate) fn counting() -> Builder<'static> {
        Builder {
            source: None,
            device: Device::Cpu,
            kind: Kind::Float,
            expert_group: None,
            weights: Vec::new(),
        }
    }

    fn add(
        &mut self,
        name: String,
        shape: Vec<i64>,
        pieces: Vec<Piece>,
        trained: bool,
        wide: bool,
    ) -> Result<Tensor> {
        let tensor = match &mut self.source {
            Some(source) => match source.ready() {
                Some(tensor) => tensor,
                None => {
                    let tensor = Tensor::f_empty(
                        &shape,
                        (kind_within(self.kind, trained, wide), self.device),
                    )?;
                    for piece in &pieces {
                        tch::no_grad(|| source.fill(piece, &tensor))?;
                    }
                    tensor
                }
            },
            None => Tensor::new(),
        };
        self.weights.push(Weight {
            name,
            tensor: tensor.shallow_clone(),
            shape,
            pieces,
            trained,
            wide,
        });
        Ok(tensor)
    }

    /// Adds a tensor that is the same in memory and on disk.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[i64], initial: Initial) -> Result<Tensor> {
        self.single(name, shape, initial, false)
    }

    /// Adds a tensor like [`Self::tensor`], but in float32 at least, whatever the model's dtype.
    pub(crate) fn wide_tensor(
        &mut self,
        name: &str,
        shape: &[i64],
        initial: Initial,
    ) -> Result<Tensor> {
        self.single(name, shape, initial, true)
    }

    fn single(
        &mut self,
        name: &str,
        shape: &[i64],
        initial: Initial,
        wide: bool,
    ) -> Result<Tensor> {
        let piece = Piece {
            name: name.to_owned(),
            shape: shape.to_vec(),
            initial,
            expert: None,
            start: 0,
            order: None,
        };
        self.add(name.to_owned(), shape.to_vec(), vec![piece], true, wide)
    }

    /// Adds a float32 tensor `[size]` that is not trained, zero at first.
    pub(crate) fn buffer(&mut self, name: &str, size: i64) -> Result<Tensor> {
        let piece = Piece {
            name: name.to_owned(),
            shape: vec![size],
            initial: Initial::Zeros,
            expert: None,
            start: 0,
            order: None,
        };
        self.add(name.to_owned(), vec![size], vec![piece], false, true)
    }

    /// Adds tensors `{prefix}{rows.name}{suffix}` one behind the other: as a matrix of `columns`,
    /// or as a vector if that is `None`. A single entry keeps its own name, otherwise the tensor is
    /// `{prefix}{name}{suffix}`.
    pub(crate) fn rows(
        &mut self,
        prefix: &str,
        name: &str,
        suffix: &str,
        rows: Vec<Rows>,
        columns: Option<i64>,
    ) -> Result<Tensor> {
        let initial = if columns.is_some() {
            Initial::Normal
        } else {
            Initial::Zeros
        };
        let shape = |count: i64| std::iter::once(count).chain(columns).collect::<Vec<_>>();
        let name = if let [only] = &rows[..] {
            only.name
        } else {
            name
        };
        let name = format!("{prefix}{name}{suffix}");
        let mut start = 0;
        let mut pieces = Vec::with_capacity(rows.len());
        for Rows { name, count, order } in rows {
            pieces.push(Piece {
                name: format!("{prefix}{name}{suffix}"),
                shape: shape(count),
                initial,
                expert: None,
                start,
                order,
            });
            start += count;
        }
        self.add(name, shape(start), pieces, true, false)
    }

    /// Adds the matrix `{prefix}{rows.name}.weight`, zero at first.
    pub(crate) fn zero_rows(&mut self, prefix: &str, rows: Rows, columns: i64) -> Result<Tensor> {
        let Rows { name, count, order } = rows;
        let name = format!("{prefix}{name}.weight");
        let shape = vec![count, columns];
        let piece = Piece {
            name: name.clone(),
            shape: shape.clone(),
            initial: Initial::Zeros,
            expert: None,
            start: 0,
            order,
        };
        self.add(name, shape, vec![piece], true, false)
    }

    /// Adds the experts' matrices `{prefix}.{expert}.{rows.name}.weight` as `{prefix}.{name}`
    /// `[experts, rows, columns]`: all of a layer's `experts`, or this rank's shard of them.
    pub(crate) fn experts(
        &mut self,
        prefix: &str,
        name: &str,
        experts: i64,
        rows: &[Rows],
        columns: i64,
        initial: Initial,
    ) -> Result<Tensor> {
        let height = rows.iter().map(|r| r.count).sum();
        let shard = match &self.expert_group {
            Some(group) => group.shard(experts)?,
            None => 0..experts,
        };
        let own = shard.end - shard.start;
        let mut pieces = Vec::with_capacity(own as usize * rows.len());
        for expert in shard.clone() {
            let mut start = 0;
            for row in rows {
                pieces.push(Piece {
                    name: format!("{prefix}.{expert}.{}.weight", row.name),
                    shape: vec![row.count, columns],
                    initial,
                    expert: Some(Expert {
                        number: expert,
                        at: expert - shard.start,
                    }),
                    start,
                    order: None,
                });
                start += row.count;
            }
        }
        self.add(
            format!("{prefix}.{name}"),
            vec![own, height, columns],
            pieces,
            true,
            false,
        )
    }
}
