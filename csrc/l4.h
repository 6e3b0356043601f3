/*
 * l4.h - offsets in TCP (RFC 9293) and UDP (RFC 768) headers; shared by segment.c and coalesce.c.
 */
#ifndef TNL_L4_H
#define TNL_L4_H

#define TCP_HEADER_MIN 20u
#define TCP_OFF_SEQUENCE 4u
#define TCP_OFF_ACK 8u
#define TCP_OFF_DATA_OFFSET 12u
#define TCP_OFF_FLAGS 13u
#define TCP_OFF_WINDOW 14u
#define TCP_OFF_CHECKSUM 16u
#define TCP_OFF_URGENT 18u

#define TCP_FIN 0x01u
#define TCP_PSH 0x08u
#define TCP_ACK 0x10u
#define TCP_CWR 0x80u

#define UDP_HEADER 8u
#define UDP_OFF_LENGTH 4u
#define UDP_OFF_CHECKSUM 6u

#endif
