//! Tensors on a GPU over a transport of the host: they are copied to the host, and what came is
//! copied back. It is right for any devices, two ranks on one GPU too, and slow. The host's memory
//! is not pinned: the copies are faster than TCP without it.

use crate::backend::{Backend, BackendError};
use std::time::Duration;
use tch::{Device, TchError, Tensor};

/// A host's backend, for tensors that are elsewhere.
pub(crate) struct Staged<'a>(pub(crate) &'a mut dyn Backend);

/// New memory of the host, as long as a flat uint8 tensor.
fn room_for(tensor: &Tensor) -> Result<Tensor, TchError> {
    Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))
}

/// A copy in the host's memory, behind all work on the tensor's stream.
fn to_host(tensor: &Tensor) -> Result<Tensor, TchError> {
    let mut copy = room_for(tensor)?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}

impl Backend for Staged<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn all_to_all(
        &mut self,
        input: &Tensor,
        sent: &[i64],
        output: &mut Tensor,
        received: &[i64],
        limit: Duration,
    ) -> Result<(), BackendError> {
        let mut came = room_for(output)?;
        let input = to_host(input)?;
        self.0
            .all_to_all(&input, sent, &mut came, received, limit)?;
        output.f_copy_(&came)?;
        Ok(())
    }

    fn all_gather(
        &mut self,
        input: &Tensor,
        output: &mut Tensor,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let mut came = room_for(output)?;
        self.0.all_gather(&to_host(input)?, &mut came, limit)?;
        output.f_copy_(&came)?;
        Ok(())
    }

    fn broadcast(
        &mut self,
        bytes: &mut Tensor,
        root: usize,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let mut copy = to_host(bytes)?;
        self.0.broadcast(&mut copy, root, limit)?;
        bytes.f_copy_(&copy)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_group::ProcessGroup;
    use crate::{Call, in_process};

    const LONG: Duration = Duration::from_secs(60);

    /// Runs `rank` on each of three threads, whose tensors are staged though they are on the host.
    fn staged(rank: impl Fn(&mut Staged) -> Vec<u8> + Sync) -> Vec<Vec<u8>> {
        std::thread::scope(|scope| {
            let run = |mut group: ProcessGroup| {
                let rank = &rank;
                scope.spawn(move || {
                    group.barrier(Call::new("begin", LONG)).unwrap();
                    rank(&mut Staged(group.host()))
                })
            };
            let threads: Vec<_> = in_process::gang("staged", 3).into_iter().map(run).collect();
            threads.into_iter().map(|own| own.join().unwrap()).collect()
        })
    }

    fn zeros(bytes: i64) -> Tensor {
        Tensor::zeros([bytes], (tch::Kind::Uint8, Device::Cpu))
    }

    #[test]
    fn bytes_arrive_where_they_belong() {
        // Rank r sends d bytes of 10 r + d to rank d.
        let exchanged = staged(|backend| {
            let rank = backend.rank() as u8;
            let own = [10 * rank + 1, 10 * rank + 2, 10 * rank + 2];
            let mut output = zeros(3 * i64::from(rank));
            let (sent, received) = ([0, 1, 2], [i64::from(rank); 3]);
            let input = Tensor::from_slice(&own);
            let moved = backend.all_to_all(&input, &sent, &mut output, &received, LONG);
            moved.unwrap();
            assert_eq!(Vec::<u8>::try_from(&input).unwrap(), own);
            Vec::try_from(&output).unwrap()
        });
        assert_eq!(
            exchanged,
            [vec![], vec![1, 11, 21], vec![2, 2, 12, 12, 22, 22]]
        );
        let gathered = staged(|backend| {
            let mut output = zeros(3);
            let own = Tensor::from_slice(&[backend.rank() as u8 + 5]);
            backend.all_gather(&own, &mut output, LONG).unwrap();
            Vec::try_from(&output).unwrap()
        });
        assert_eq!(gathered, [[5, 6, 7]; 3]);
        let sent = staged(|backend| {
            let mut bytes = Tensor::from_slice(&[backend.rank() as u8, 9]);
            backend.broadcast(&mut bytes, 1, LONG).unwrap();
            Vec::try_from(&bytes).unwrap()
        });
        assert_eq!(sent, [[1, 9]; 3]);
    }
}
