/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A frame that the CPU has placed is gathered by one launch: the pieces of devrx_frame_pieces (C) or Frame::pieces_into (Rust), copied to the device, and the region (and the
 * daemon-written memory, where data lies in header slots) as the device has them. Drop the frame when the stream has passed the launch, not before.
 *
 *     gather<<<256, 256, 0, stream>>>(pieces, count, out, fill, region, daemon);
 */
#include "devrx_placement.cuh"

extern "C" __global__ void gather(const devrx_piece *pieces, devrx_u64 count, devrx_u8 *out, devrx_u8 fill, const void *region, const void *daemon)
{
    /* A warp takes a piece. */
    const devrx_u32 warps = blockDim.x / 32;
    devrx_gather_pieces(pieces, count, out, fill, region, daemon, blockIdx.x * warps + threadIdx.x / 32, gridDim.x * warps, threadIdx.x % 32, 32);
}
