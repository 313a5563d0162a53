/* Compiles a kernel with NVRTC, which needs no GPU: nvrtc LIBRARY SOURCE ARCHITECTURE OPTION... writes PTX to standard output. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef int (*create)(void **, const char *, const char *, int, const char *const *, const char *const *);
typedef int (*compile)(void *, int, const char *const *);
typedef int (*size)(void *, size_t *);
typedef int (*get)(void *, char *);

static void *library;

static void *function(const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "no %s in it\n", name);
        exit(2);
    }
    return found;
}

static char *text(void *program, const char *bytes, const char *read)
{
    size_t length = 0;
    ((size)function(bytes))(program, &length);
    char *found = calloc(1, length + 1);
    ((get)function(read))(program, found);
    return found;
}

int main(int argc, char **argv)
{
    static char source[1 << 20];
    void *program;
    FILE *file = argc > 2 ? fopen(argv[2], "r") : NULL;

    if (!file)
        return 2;
    source[fread(source, 1, sizeof source - 1, file)] = 0;
    library = dlopen(argv[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    if (((create)function("nvrtcCreateProgram"))(&program, source, argv[2], 0, NULL, NULL) != 0)
        return 2;
    int result = ((compile)function("nvrtcCompileProgram"))(program, argc - 3, (const char *const *)argv + 3);
    fputs(text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog"), stderr);
    if (result == 0)
        fputs(text(program, "nvrtcGetPTXSize", "nvrtcGetPTX"), stdout);
    return result;
}
