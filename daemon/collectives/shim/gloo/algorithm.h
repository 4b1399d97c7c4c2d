// See context.h: libtorch's header asks for this file and uses nothing of it.
