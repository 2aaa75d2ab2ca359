/* A PKCS #11 module that wraps another one and fails on command: the fault tool of the key tests.
 *
 * It reads its orders from files in its own directory, so several tokens with different faults work side by side:
 *   module    path of the real module; environment: lines NAME=VALUE set before it is loaded
 *   control   words, read afresh at every call:
 *               latency=MS  each signature takes so long
 *               unplugged   no slot has a token; every session is DEVICE_REMOVED
 *               plug=N      counts replugs: sessions of an earlier N are SESSION_HANDLE_INVALID
 *               hang        the next signature never returns
 *               abort       the next signature kills the process
 *               wrong       signatures have one bit flipped
 *               login-abort, login-hang   the same for C_Login
 *               create-abort  the process dies as it is about to make an object
 *               create-torn   an object gets the first half of its value, then the process dies
 *               data-hang     looking for data objects never returns
 *               pin-low, pin-last, pin-locked   the token reports wrong PINs in its flags
 *   log       one line is appended per call: C_Login, C_SignInit, C_Sign (only the call that makes the signature),
 *             C_CreateObject
 *
 * Written for python-pkcs11's one thread: no locks.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <p11-kit/pkcs11.h>

#define MAX_SESSIONS 4096

static CK_FUNCTION_LIST wrapper;
static CK_FUNCTION_LIST *real;
static char directory[4096];
static char orders[1024];
static long plug;                      /* the last N seen */
static long plugged_at[MAX_SESSIONS];  /* by session handle modulo the size: N + 1 at C_OpenSession */

static void in_directory(char *path, size_t size, const char *name)
{
    snprintf(path, size, "%s/%s", directory, name);
}

static void read_orders(void)
{
    char path[4200];
    in_directory(path, sizeof path, "control");
    orders[0] = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    ssize_t size = read(file, orders, sizeof orders - 1);
    close(file);
    orders[size > 0 ? size : 0] = 0;
}

/* The value after "name=" or 1 for a bare word, 0 when it is absent. */
static long ordered(const char *name)
{
    size_t length = strlen(name);
    for (const char *word = orders; *word; word += strcspn(word, " \n"), word += strspn(word, " \n")) {
        if (strncmp(word, name, length) != 0)
            continue;
        if (word[length] == '=')
            return atol(word + length + 1);
        if (word[length] == 0 || word[length] == ' ' || word[length] == '\n')
            return 1;
    }
    return 0;
}

static void count(const char *call)
{
    char path[4200], line[64];
    in_directory(path, sizeof path, "log");
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    int length = snprintf(line, sizeof line, "%s\n", call);
    if (file < 0 || write(file, line, (size_t) length) != length)
        abort();
    close(file);
}

/* What happens to a call on this session now; CKR_OK when it may go through. */
static CK_RV session_state(CK_SESSION_HANDLE session)
{
    read_orders();
    if (ordered("unplugged"))
        return CKR_DEVICE_REMOVED;
    plug = ordered("plug");
    return plugged_at[session % MAX_SESSIONS] == plug + 1 ? CKR_OK : CKR_SESSION_HANDLE_INVALID;
}

#define GUARD(session) do { CK_RV state_ = session_state(session); if (state_ != CKR_OK) return state_; } while (0)

static CK_RV fault_GetSlotList(CK_BBOOL present, CK_SLOT_ID_PTR list, CK_ULONG_PTR number)
{
    read_orders();
    if (present && ordered("unplugged")) {
        *number = 0;
        return CKR_OK;
    }
    return real->C_GetSlotList(present, list, number);
}

static CK_RV fault_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
    read_orders();
    if (ordered("unplugged"))
        return CKR_TOKEN_NOT_PRESENT;
    CK_RV result = real->C_GetTokenInfo(slot, info);
    if (ordered("pin-low"))
        info->flags |= CKF_USER_PIN_COUNT_LOW;
    if (ordered("pin-last"))
        info->flags |= CKF_USER_PIN_FINAL_TRY;
    if (ordered("pin-locked"))
        info->flags |= CKF_USER_PIN_LOCKED;
    return result;
}

static CK_RV fault_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR context, CK_NOTIFY notify,
                               CK_SESSION_HANDLE_PTR session)
{
    read_orders();
    if (ordered("unplugged"))
        return CKR_TOKEN_NOT_PRESENT;
    if (ordered("plug") != plug)
        real->C_CloseAllSessions(slot); /* a replugged token remembers no login */
    plug = ordered("plug");
    CK_RV result = real->C_OpenSession(slot, flags, context, notify, session);
    if (result == CKR_OK)
        plugged_at[*session % MAX_SESSIONS] = plug + 1;
    return result;
}

static CK_RV fault_CloseSession(CK_SESSION_HANDLE session)
{
    GUARD(session);
    return real->C_CloseSession(session);
}

static CK_RV fault_Login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG length)
{
    GUARD(session);
    count("C_Login");
    if (ordered("login-abort"))
        abort();
    if (ordered("login-hang"))
        for (;;)
            pause();
    return real->C_Login(session, user, pin, length);
}

static CK_RV fault_FindObjectsInit(CK_SESSION_HANDLE session, CK_ATTRIBUTE_PTR attributes, CK_ULONG number)
{
    GUARD(session);
    for (CK_ULONG each = 0; ordered("data-hang") && each < number; each++)
        if (attributes[each].type == CKA_CLASS && *(CK_OBJECT_CLASS *) attributes[each].pValue == CKO_DATA)
            for (;;)
                pause();
    return real->C_FindObjectsInit(session, attributes, number);
}

static CK_RV fault_GenerateKeyPair(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR public_attributes,
                                   CK_ULONG public_number, CK_ATTRIBUTE_PTR private_attributes, CK_ULONG private_number,
                                   CK_OBJECT_HANDLE_PTR public_key, CK_OBJECT_HANDLE_PTR private_key)
{
    GUARD(session);
    return real->C_GenerateKeyPair(session, mechanism, public_attributes, public_number, private_attributes, private_number,
                                   public_key, private_key);
}

static CK_RV fault_CreateObject(CK_SESSION_HANDLE session, CK_ATTRIBUTE_PTR attributes, CK_ULONG number,
                                CK_OBJECT_HANDLE_PTR object)
{
    GUARD(session);
    count("C_CreateObject");
    if (ordered("create-abort"))
        abort();
    if (ordered("create-torn")) {
        for (CK_ULONG each = 0; each < number; each++)
            if (attributes[each].type == CKA_VALUE)
                attributes[each].ulValueLen /= 2;
        if (real->C_CreateObject(session, attributes, number, object) == CKR_OK)
            abort();
    }
    return real->C_CreateObject(session, attributes, number, object);
}

static CK_RV fault_SignInit(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key)
{
    GUARD(session);
    count("C_SignInit");
    return real->C_SignInit(session, mechanism, key);
}

static CK_RV fault_Sign(CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG data_length, CK_BYTE_PTR signature,
                        CK_ULONG_PTR signature_length)
{
    GUARD(session);
    if (signature == NULL) /* a question for the length only */
        return real->C_Sign(session, data, data_length, NULL, signature_length);
    count("C_Sign");
    if (ordered("abort"))
        abort();
    if (ordered("hang"))
        for (;;)
            pause();
    usleep((useconds_t) ordered("latency") * 1000);
    read_orders(); /* pulled out while it was working */
    if (ordered("unplugged"))
        return CKR_DEVICE_REMOVED;
    CK_RV result = real->C_Sign(session, data, data_length, signature, signature_length);
    if (result == CKR_OK && ordered("wrong"))
        signature[0] ^= 0x10;
    return result;
}

static void load_real(void)
{
    char path[4200], line[4200];
    Dl_info self;
    if (!dladdr((void *) &load_real, &self))
        abort();
    snprintf(line, sizeof line, "%s", self.dli_fname);
    snprintf(directory, sizeof directory, "%s", dirname(line));

    in_directory(path, sizeof path, "environment");
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, '=');
        if (value) {
            *value = 0;
            setenv(line, value + 1, 1);
        }
    }
    if (file)
        fclose(file);

    in_directory(path, sizeof path, "module");
    file = fopen(path, "r");
    if (!file || !fgets(line, sizeof line, file))
        abort();
    fclose(file);
    line[strcspn(line, "\n")] = 0;
    void *module = dlopen(line, RTLD_NOW | RTLD_LOCAL);
    CK_C_GetFunctionList get_list = module ? (CK_C_GetFunctionList) dlsym(module, "C_GetFunctionList") : NULL;
    if (!get_list || get_list(&real) != CKR_OK)
        abort();
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
    if (!real) {
        load_real();
        wrapper = *real;
        wrapper.version.major = 2; /* nobody shall look for a PKCS #11 3.x list behind this one */
        wrapper.version.minor = 40;
        wrapper.C_GetFunctionList = C_GetFunctionList;
        wrapper.C_GetSlotList = fault_GetSlotList;
        wrapper.C_GetTokenInfo = fault_GetTokenInfo;
        wrapper.C_OpenSession = fault_OpenSession;
        wrapper.C_CloseSession = fault_CloseSession;
        wrapper.C_Login = fault_Login;
        wrapper.C_FindObjectsInit = fault_FindObjectsInit;
        wrapper.C_GenerateKeyPair = fault_GenerateKeyPair;
        wrapper.C_CreateObject = fault_CreateObject;
        wrapper.C_SignInit = fault_SignInit;
        wrapper.C_Sign = fault_Sign;
    }
    *list = &wrapper;
    return CKR_OK;
}
