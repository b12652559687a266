#include "link.cuh"

#include "../common/entry.cuh"

SEQPAR_KERNEL(link_stamp, SeqparLink, kLinkThreads, 1) { stamp_message(p); }
SEQPAR_KERNEL(link_hold, SeqparLink, kLinkThreads, 1) { hold_message(p); }
