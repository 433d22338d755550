/* cli/gpu.h - how much of the GPUs' memory processes have, as nvidia-smi says, where it is there. */
#ifndef CLI_GPU_H
#define CLI_GPU_H

#include <stdint.h>

/* In bytes, of the process and all that descend from it; -1 when that is not known. Runs nvidia-smi, and waits for it
 * for two seconds at most. */
int64_t gpu_memory(int64_t pid);

/* The same from what was seen in the last ten seconds or so; never waits. What is older is looked up again on a thread
 * of its own. Any thread. */
int64_t gpu_memory_seen(int64_t pid);

#endif
